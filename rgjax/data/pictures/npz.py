"""Images in an .npz file in the form of MedMNIST (Yang et al. 2023).

It has the arrays train_images, train_labels, test_images, test_labels and optionally val_images and val_labels.
"""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from rgjax.data.pictures.decode import MAX_PIXELS, Unreadable
from rgjax.data.splits import SPLITS
from rgjax.errors import UserError, first_few, first_line

# A small file can declare arrays of any size. Zipped images are far below this, even with black margins.
_MAX_INFLATION = 100
_CHUNK = 2**20  # bytes
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, SyntaxError)


def is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


@contextlib.contextmanager
def reading_npz(file: Path) -> Iterator[None]:
    """Turn what a damaged .npz file raises into a UserError."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{file}: not a readable .npz file: {first_line(error)}") from error


def npz_arrays(file: Path, *, any_order: bool = False) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """The type and the shape of each array; those in Fortran order need `any_order`.

    Raises UserError if the file is damaged or a bomb.
    """
    with reading_npz(file), zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_INFLATION * file.stat().st_size:
            raise UserError(f"{file}: claims {size:,} bytes, over {_MAX_INFLATION} times the size of the file")
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        return {member.filename.removesuffix(".npy"): _header(archive, member, any_order) for member in members}


def npz_labels(file: Path, name: str, count: int) -> list[str]:
    """The label of each image, from an array [count] or [count, 1]. Raises UserError."""
    arrays = npz_arrays(file)
    if name not in arrays:
        raise UserError(f"{file}: no array '{name}'; arrays: {first_few(arrays, limit=20)}")
    kind, shape = arrays[name]
    if len(shape) == 2 and shape[1] > 1:
        raise UserError(
            f"{file}: {name} has {shape[1]} labels per image; only one is supported, as an array of shape [{count}]"
        )
    if shape not in ((count,), (count, 1)) or kind.kind not in "biuU":
        raise UserError(f"{file}: {name} is {kind} {list(shape)}; it must be integers or text of shape [{count}]")
    try:
        with np.load(file, allow_pickle=False) as content:
            return [str(label) for label in content[name].reshape(count).tolist()]
    except _DAMAGE as error:
        raise UserError(f"{file}: {name} cannot be read: {first_line(error)}") from error


def npz_images(file: Path) -> dict[str, int]:
    """The number of images in each split. Raises UserError for other arrays."""
    arrays = npz_arrays(file)
    counts = {}
    for split in SPLITS:
        name = f"{split}_images"
        if name not in arrays:
            continue
        kind, shape = arrays[name]
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            raise UserError(
                f"{file}: {name} has the shape {list(shape)}; it must be [N, H, W] or [N, H, W, 3]: volumes are not "
                "supported, save their slices"
            )
        if kind != np.uint8 or not 0 < math.prod(shape[1:3]) <= MAX_PIXELS:
            raise UserError(f"{file}: {name} is {kind} {list(shape)}; it must be uint8 of 1 to {MAX_PIXELS:,} pixels")
        if not shape[0]:
            raise UserError(f"{file}: {name} is empty; add images, or remove the array")
        counts[split] = shape[0]
    if not counts:
        fix = "; add --config.data.name=features" if "features" in arrays else ""
        raise UserError(f"{file}: no arrays train_images and test_images; arrays: {first_few(arrays, limit=20)}{fix}")
    return counts


def npz_rows(file: Path, name: str) -> Iterator[np.ndarray | Unreadable]:
    """The images [H, W] or [H, W, 3] of an array; one is in memory at a time.

    The checksum of the array is compared before.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            with archive.open(f"{name}.npy") as stream:
                while stream.read(_CHUNK):
                    pass
            with archive.open(f"{name}.npy") as stream:
                kind, shape = _read_header(stream)
                for _ in range(shape[0]):
                    content = stream.read(math.prod(shape[1:]) * kind.itemsize)
                    image = np.frombuffer(content, kind).reshape(shape[1:])
                    yield image[..., 0] if shape[3:] == (1,) else image
    except _DAMAGE as error:
        while True:
            yield Unreadable(f"{file.name} is damaged: {first_line(error)}")


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, any_order: bool) -> tuple[np.dtype, tuple[int, ...]]:
    with archive.open(member) as stream:
        kind, shape = _read_header(stream, any_order)
        if stream.tell() + math.prod(shape) * kind.itemsize != member.file_size:
            raise ValueError(f"{member.filename} has another size than it claims")
    return kind, shape


def _read_header(stream: IO[bytes], any_order: bool = False) -> tuple[np.dtype, tuple[int, ...]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, kind = read(stream)
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if fortran_order and len(shape) > 1 and not any_order:
        raise ValueError("an array is in Fortran order; save numpy.ascontiguousarray(array)")
    return kind, shape
