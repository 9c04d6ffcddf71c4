"""Images of one's own, in a folder with a subfolder for each class or listed in a table."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from rgjax.console import progress
from rgjax.data.custom import list_images
from rgjax.data.dataset import Source, blank_image
from rgjax.data.decode import Unreadable, decode
from rgjax.errors import UserError, first_few
from rgjax.storage.files import atomic_path, cache_dir, cached_arrays, digest, set_aside

Result = TypeVar("Result")

_AHEAD = 512  # images that threads may have read before they are asked for


def load(*, image_size: int, manual_dir: str = "", unreadable: str = "stop") -> Source:
    """The images that `own.list_images` finds, at `image_size`; `inputs` is a memory map of a file in the cache.

    Those that cannot be read raise UserError, or are left out and noted where `unreadable` is "skip".
    """
    listing = list_images(manual_dir)
    pixels, faults, content = decoded(listing.items, image_size)
    if bad := [f"{listing.ids[row]} ({faults[row]})" for row in np.flatnonzero(faults != "")]:
        told = f"{len(bad)} of {len(faults)} images cannot be read"
        if unreadable == "stop":
            raise UserError(
                f"{told}: {first_few(bad)}; mend or remove them (python -m rgjax.data.inspect lists all), or leave "
                "them out by --config.data.unreadable=skip"
            )
        names = listing.class_names
        listing = listing.only(faults == "", f"{told} and are left out: {first_few(bad)}")
        if gone := [name for name in names if name not in listing.class_names]:
            raise UserError(f"{told}, among them all of the classes {first_few(gone)}: {first_few(bad)}; mend them")
    return listing.source(pixels, digest("images", content, *listing.labels, *listing.ids))


def spec(*, image_size: int, manual_dir: str = "") -> Source:
    """The same rows without their pixels, those that cannot be read among them."""
    listing = list_images(manual_dir)
    blank = blank_image(image_size)
    return listing.source(np.broadcast_to(blank, (len(listing.items), *blank.shape)), "spec")


def decoded(paths: Sequence[Path], image_size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The images that can be read, uint8 [n, S, S, 3] on disk; why a row of `paths` cannot [N], "" if it can; and
    the hash of the former. Decoded once, for as long as names, sizes and times of the files stay."""
    files = [(os.path.abspath(path), *_state(path)) for path in paths]
    path = cache_dir() / "images" / f"{digest('own-images-v1', image_size, repr(files))}.npy"

    def compute() -> dict[str, np.ndarray]:
        faults, sha = [""] * len(paths), hashlib.sha256()
        shape = (len(paths), image_size, image_size, 3)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + int(np.prod(shape))
            found_all = in_threads(lambda path: np.ascontiguousarray(decode(path, image_size)), paths)
            for row, found in enumerate(progress(found_all, "decode", len(paths), unit="image")):
                if isinstance(found, Unreadable):
                    faults[row] = str(found)
                else:
                    file.write(found.data)
                    sha.update(found.data)
            file.truncate(size)  # the rows of those that cannot be read are behind the others, and empty
        return {"faults": np.array(faults), "content": np.array(sha.hexdigest())}

    beside = path.with_suffix(".npz")
    if not path.exists():
        beside.unlink(missing_ok=True)
    known = cached_arrays(beside, compute)
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)[: np.count_nonzero(known["faults"] == "")]
        sha = hashlib.sha256()
        for start in range(0, len(pixels), _AHEAD):
            sha.update(np.ascontiguousarray(pixels[start : start + _AHEAD]).data)
        if sha.hexdigest() != str(known["content"]):
            raise ValueError("checksum")
    except (ValueError, EOFError) as error:  # NumPy's, for half a file
        set_aside(path, error)
        return decoded(paths, image_size)
    return pixels, known["faults"], str(known["content"])


def in_threads(function: Callable[[Path], Result], paths: Sequence[Path]) -> Iterator[Result | Unreadable]:
    """`function(path)` of all paths in their order, or why the image cannot be read; few are held at a time."""

    def one(path: Path) -> Result | Unreadable:
        try:
            return function(path)
        except Unreadable as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _AHEAD):
            yield from pool.map(one, paths[start : start + _AHEAD])


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:  # a link to nowhere: decoding tells
        return -1, -1
    return state.st_size, state.st_mtime_ns
