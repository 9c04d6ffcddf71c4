"""Custom images: a folder with one subfolder per class, or a table of paths."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from rgjax.config import Config
from rgjax.console import progress
from rgjax.data.custom import list_images
from rgjax.data.dataset import Source, blank_image
from rgjax.data.listing import Listing
from rgjax.data.notes import note, notes_on
from rgjax.data.pictures.decode import Encoded, Original, Packed, Unreadable, decode_with_remarks, named
from rgjax.data.pictures.packed import read_images
from rgjax.data.splits import split
from rgjax.data.tables.columns import Columns
from rgjax.edges.shell import shell_line
from rgjax.errors import UserError, first_few
from rgjax.storage.files import (
    atomic_path,
    cache_dir,
    cached_arrays,
    digest,
    file_sha256,
    read_json_object,
    set_aside,
    write_json,
)

Result = TypeVar("Result")

_CHUNK = 512  # images that are hashed at once


def load(config: Config) -> Source:
    """The images in the folder or table `config.manual_dir`.

    `inputs` is memory-mapped from the cache. Unreadable images raise UserError; with `config.unreadable` "skip" they
    are skipped and noted.
    """
    listing = list_images(config.manual_dir, Columns.parse(config.columns), config.unreadable)
    split(_blank(listing, config.image_size), config)  # raises for a class that is too small before images are decoded
    pixels, faults, remarks, content = decode_files(listing.items, config.image_size, config.interpolation)
    listing = replace(
        listing, notes=(*listing.notes, *notes_on(zip(listing.ids, map(str.split, remarks), strict=True)))
    )
    if unreadable := [f"{listing.ids[index]} ({faults[index]})" for index in np.flatnonzero(faults != "")]:
        summary = f"{listing.where}: {len(unreadable)} of {len(faults)} images cannot be read"
        if config.unreadable == "stop":
            raise UserError(
                f"{summary}: {first_few(unreadable)}; repair or remove them "
                f"({shell_line('data.inspect', config.manual_dir)} lists all), "
                "or skip them by --config.data.unreadable=skip"
            )
        class_names = listing.class_names
        listing = listing.select(faults == "", *note("unreadable_image", unreadable))
        if empty := [name for name in class_names if name not in listing.class_names]:
            raise UserError(
                f"{summary}, among them all images of class {first_few(empty)}: {first_few(unreadable)}; repair them, "
                "or remove the class"
            )
    return listing.source(pixels, digest("images", content, *listing.labels, *listing.ids), listing.items)


def spec(config: Config) -> Source:
    """The same examples with blank images, unreadable ones included."""
    return _blank(list_images(config.manual_dir, Columns.parse(config.columns), config.unreadable), config.image_size)


def _blank(listing: Listing[Path | Packed], image_size: int) -> Source:
    image = blank_image(image_size)
    return listing.source(np.broadcast_to(image, (len(listing.items), *image.shape)), "spec")


class DecodedFiles(NamedTuple):
    """N image files, decoded.

    Attributes:
        pixels: the n readable images, uint8 [n, S, S, 3] memory-mapped.
        faults: for each of the N files the reason why it cannot be read, or "".
        remarks: for each of the N files what a user may not expect: kinds of notes, joined by spaces.
        content: the SHA-256 of `pixels`.
    """

    pixels: np.ndarray
    faults: np.ndarray
    remarks: np.ndarray
    content: str


def decode_files(images: Sequence[Path | Packed], image_size: int, interpolation: str) -> DecodedFiles:
    """Decode image files into one file in the cache.

    They are decoded once, unless a name, a size or a modification time changes.
    """
    files = states(images)
    pixels_path = (
        cache_dir() / "images" / f"{digest('own-images-v2', image_size, *named(interpolation), repr(files))}.npy"
    )
    faults_path = pixels_path.with_suffix(".npz")
    if faults_path.exists() and not pixels_path.exists():
        faults_path.unlink()
    known = cached_arrays(faults_path, lambda: _decode_to(pixels_path, images, image_size, interpolation))
    try:
        pixels = np.load(pixels_path, mmap_mode="r", allow_pickle=False)[: np.count_nonzero(known["faults"] == "")]
        _require_sound(pixels_path, pixels, str(known["content"]))
    except (ValueError, EOFError) as error:  # NumPy raises them for a truncated file
        set_aside(pixels_path, error)
        return decode_files(images, image_size, interpolation)
    return DecodedFiles(pixels, known["faults"], known["remarks"], str(known["content"]))


def _require_sound(path: Path, pixels: np.ndarray, content: str) -> None:
    """Raise ValueError unless the pixels of a cached file have the SHA-256 `content`.

    They are hashed at the first use of the file, and again if its size or modification time changes, or on request.
    """
    stat, record = path.stat(), path.with_suffix(".json")
    checked = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "sha256": content}
    with contextlib.suppress(OSError, ValueError):
        if read_json_object(record) == checked and not os.environ.get("RGJAX_VERIFY_CACHE"):
            return
    sha = hashlib.sha256()
    for start in range(0, len(pixels), _CHUNK):
        sha.update(np.ascontiguousarray(pixels[start : start + _CHUNK]).data)
    if sha.hexdigest() != content:
        raise ValueError("checksum")
    with contextlib.suppress(UserError):  # a cache that cannot be written is hashed each time
        write_json(record, checked)


def _decode_to(
    target: Path, images: Sequence[Path | Packed], image_size: int, interpolation: str
) -> dict[str, np.ndarray]:
    """Write the readable images to the .npy file `target`, one at a time."""
    faults, remarks, sha = [""] * len(images), [""] * len(images), hashlib.sha256()
    shape = (len(images), image_size, image_size, 3)
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        size = file.tell() + int(np.prod(shape))
        results = map_in_threads(lambda image: decode_with_remarks(image, image_size, interpolation), images)
        for index, result in enumerate(progress(results, "decode", len(images), unit="image")):
            if isinstance(result, Unreadable):
                faults[index] = str(result)
            else:
                remarks[index] = " ".join(result.remarks)
                pixels = np.ascontiguousarray(result.pixels).data
                file.write(pixels)
                sha.update(pixels)
        file.truncate(size)  # unreadable images leave zeros at the end
    return {"faults": np.array(faults), "remarks": np.array(remarks), "content": np.array(sha.hexdigest())}


def map_in_threads(function: Callable[[Encoded], Result], images: Iterable[Original]) -> Iterator[Result | Unreadable]:
    """`function(image)` of each image, in order, or the Unreadable that it raised.

    A bounded number of images is computed ahead, also while the caller is busy.
    """

    def call(image: Encoded | Unreadable) -> Result | Unreadable:
        try:
            return image if isinstance(image, Unreadable) else function(image)
        except Unreadable as error:
            return error

    pool, started = ThreadPoolExecutor(os.cpu_count()), deque()
    try:
        for batch in read_images(images):
            started.append(pool.map(call, batch))
            if len(started) > 1:  # the threads work on one list while the results of the one before are used
                yield from started.popleft()
        for results in started:
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def content_of(pictures: Sequence[Original]) -> str:
    """A hash of the content of pictures, independent of where they lie.

    Files are read once, unless a name, a size or a modification time changes.
    """
    if any(isinstance(picture, Path | Packed) for picture in pictures):
        path = cache_dir() / "images" / f"{digest('content-v1', repr(states(pictures)))}.npz"
        return str(cached_arrays(path, lambda: {"content": np.array(_content_of(pictures))})["content"])
    return _content_of(pictures)


def _content_of(pictures: Sequence[Original]) -> str:
    def content(picture: Encoded) -> bytes:
        return bytes.fromhex(file_sha256(picture)) if isinstance(picture, Path) else digest(picture).encode()

    return digest(*(repr(each) for each in map_in_threads(content, pictures)))


def states(images: Sequence[Original]) -> list[tuple]:
    """For each image, all that changes if its content may have changed."""
    state = lru_cache(_state)  # of a file with many images

    def of(image: Original) -> tuple:
        if isinstance(image, Packed):
            return *state(image.file), image.part, image.row
        return _state(image) if isinstance(image, Path) else (digest(image),)

    return [of(image) for image in images]


def _state(path: Path) -> tuple[str, int, int]:
    """Name, size and modification time of a file; -1 for a broken link."""
    try:
        state = path.stat()
    except OSError:
        return os.path.abspath(path), -1, -1
    return os.path.abspath(path), state.st_size, state.st_mtime_ns
