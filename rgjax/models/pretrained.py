"""Pretrained checkpoints in Hugging Face form, from a folder or the hub: read without torch, pickle or remote code.

Weights come as safetensors (one file or sharded) or flax_model.msgpack, under torch's names and in torch's layout.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from rgjax.console import local_path
from rgjax.errors import UserError, first_few
from rgjax.storage import hub
from rgjax.storage.files import digest

_SAFETENSORS, _MSGPACK = "model.safetensors", "flax_model.msgpack"
_INDEX = f"{_SAFETENSORS}.index.json"
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@\w[\w./-]*)?")  # NAME, OWNER/NAME, and maybe @REVISION

DEFAULT_BERT = "bert-base-uncased"

Network = TypeVar("Network")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensors:
    """A view of a checkpoint's tensors below some prefix; what is taken must be there, in the expected shape.

    A view of several layers (`layers`) gives each tensor of all of them stacked along a new first axis.
    """

    readers: dict[str, Callable[[], np.ndarray]]
    source: Path
    prefixes: Sequence[str] = ("",)
    stacked: bool = False
    taken: set[str] = field(default_factory=set)

    def at(self, name: str) -> "Tensors":
        return replace(self, prefixes=[f"{prefix}{name}." for prefix in self.prefixes])

    def layers(self, name: str, count: int) -> "Tensors":
        (prefix,) = self.prefixes
        if not any(key.startswith(f"{prefix}{name}.{count - 1}.") for key in self.readers):
            raise UserError(f"{self.source}: there is no '{name}.{count - 1}', but config.json counts {count} layers")
        return replace(self, prefixes=[f"{prefix}{name}.{i}." for i in range(count)], stacked=True)

    def below(self, name: str) -> "Tensors":
        """The view whose `name` is in the checkpoint, under whatever prefix (`bert.`, `vision_model.`, none)."""
        found = [key.removesuffix(name) for key in self.readers if key.endswith(name)]
        return replace(self, prefixes=[min(found, key=len, default="")])

    def has(self, name: str) -> bool:
        return f"{self.prefixes[0]}{name}" in self.readers

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor `name` as float32 [*shape], with the layers in front where there are several."""
        arrays = [self._read(prefix + name, shape) for prefix in self.prefixes]
        return np.stack(arrays) if self.stacked else arrays[0]

    def unused(self) -> list[str]:
        """The names of the tensors that nothing has taken; position_ids is a mere count that old versions saved."""
        return sorted(name for name in self.readers.keys() - self.taken if not name.endswith("position_ids"))

    def _read(self, name, shape):
        if name not in self.readers:
            raise UserError(f"{self.source}: tensor '{name}' is missing")
        try:
            array = self.readers[name]()
        except Exception as error:  # safetensors raises what NumPy does for a type that it does not know
            raise UserError(f"{self.source}: tensor '{name}' cannot be read: {error}") from error
        if array.shape != shape:
            raise UserError(f"{self.source}: tensor '{name}' has shape {array.shape}, but config.json says {shape}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{self.source}: tensor '{name}' is of {array.dtype}; quantized weights are not read")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{self.source}: tensor '{name}' has values that are not finite")
        self.taken.add(name)
        return array


class Checkpoint:
    """A checkpoint by the name of a folder or of a hub repository, as rgjax.hub reads it; files are fetched when they
    are asked for.

    `ways_out` ends the error message for one that cannot be had.
    """

    def __init__(self, name: str, *, ways_out: str):
        self.name, self._ways_out = name, ways_out
        folder = local_path(name)
        self._folder = folder if folder.is_dir() else None
        if self._folder is None and not _REPOSITORY.fullmatch(name):
            raise UserError(f"checkpoint: there is no folder {name}: give {ways_out}")

    def file(self, name: str) -> Path | None:
        """The local path of one of its files; None where it has no such file."""
        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        try:
            return hub.fetch(self.name, name) if name in hub.list_files(self.name) else None
        except hub.OutOfReach as error:
            raise UserError(
                f"checkpoint '{self.name}' is no folder here, and the Hugging Face hub does not give it ({error}): "
                f"give {self._ways_out}"
            ) from error

    def required(self, name: str) -> Path:
        path = self.file(name)
        if path is None:
            raise UserError(f"checkpoint {self.name} has no {name}: give {self._ways_out}")
        return path

    def json(self, name: str) -> dict[str, Any]:
        path = self.required(name)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} is not a JSON object")
        return value

    def weight_files(self) -> list[Path]:
        if path := self.file(_SAFETENSORS):
            return [path]
        if self.file(_INDEX):
            shards = self.json(_INDEX).get("weight_map")
            if not isinstance(shards, dict) or not shards or not all(_plain(name) for name in shards.values()):
                raise UserError(f"{self.required(_INDEX)} has no weight_map of file names")
            return [self.required(name) for name in sorted(set(shards.values()))]
        if path := self.file(_MSGPACK):
            return [path]
        raise UserError(
            f"checkpoint {self.name} has no weights ({_SAFETENSORS}, {_INDEX} or {_MSGPACK}; "
            f"pytorch_model.bin is a pickle and is not read): give {self._ways_out}"
        )

    def fingerprint(self, *names: str) -> str:
        """SHA-256 over the config, the weights, and those of the files called `names` that there are."""
        digests = []
        for path in [self.required("config.json"), *self.weight_files(), *filter(None, map(self.file, names))]:
            with open(path, "rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").digest())
        return digest(*digests)

    def tensors(self) -> Tensors:
        readers: dict[str, Callable[[], np.ndarray]] = {}
        files = self.weight_files()
        for path in files:
            read = _read_msgpack if path.suffix == ".msgpack" else _read_safetensors
            readers |= {_modern(name): reader for name, reader in read(path).items()}
        return Tensors(readers, files[0])

    def build(self, network: Callable[[Tensors], Network]) -> Network:
        """What `network` makes of the tensors; those that it does not use are reported."""
        tensors = self.tensors()
        built = network(tensors)
        if unused := tensors.unused():
            _log.info(f"{self.name}: {len(unused)} tensors are not used: {first_few(unused)}")
        return built


def settings(values: dict[str, Any], defaults: dict[str, Any], source: str) -> dict[str, Any]:
    """The values of a config.json for the keys of `defaults`, which stand in for what it leaves out.

    Raises UserError for a value of another type than its default's, and for a number that is not positive or absurd.
    """
    found = {name: values.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        kind = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST
        if not isinstance(value, kind) or not (number or isinstance(value, str)):
            raise UserError(f"checkpoint {source}: config.json has {name}={value!r}")
    return found


_LARGEST = 10_000_000  # of any count or size in a config.json


def _plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _modern(name: str) -> str:
    """Old BERT checkpoints, bert-base-uncased among them, say gamma and beta."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_OLD_NAMES[m[1]]}", name)


_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


def _read_safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    # "flax" would make device arrays; "numpy" reads bfloat16 too once jax has registered it.
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, download it again: {error}") from error

    def reader(name):
        return lambda: file.get_tensor(name)

    return {name: reader(name) for name in file.keys()}  # noqa: SIM118 (no mapping, though it has keys)


def _read_msgpack(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Tensors of a Flax checkpoint under torch's names; its kernels are transposed."""
    from flax import serialization, traverse_util

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep=".")
    except Exception as error:  # msgpack raises whatever the damage leads it to
        raise UserError(f"{path} is damaged, download it again: {type(error).__name__}") from error
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for name, value in flat.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: '{name}' is no tensor")
        parent, _, leaf = name.rpartition(".")
        array = value
        if leaf == "kernel":
            array = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
        readers[f"{parent}.{leaf}" if parent else leaf] = lambda array=array: array
    return readers
