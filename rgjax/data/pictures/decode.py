"""Decode image files: used by all data sets, custom folders and predictions."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from rgjax.config import AUTO
from rgjax.data.pictures.pixels import read_picture
from rgjax.errors import one_line

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .j2k .avif .ico .tga .apng .dib"
)
SUFFIXES = tuple(_SUFFIXES.split())  # files in a folder with another suffix are not images
MAX_PIXELS = 2**27  # per image: 134 million, more than cameras have; 0.4 GB as RGB
_SIGNED = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF")  # formats that begin with a signature
# What Pillow and the libraries below it raise for damaged files.
_DAMAGE = (
    *(OSError, EOFError, RuntimeError, SyntaxError, ValueError, IndexError, struct.error),
    *(Image.DecompressionBombError, ImageCms.PyCMSError),
)
_CONTRAST = 16  # levels of 255; an image with fewer in every color is nearly blank

# Pillow compares the size in the header, of frames inside a file too: it warns above this and raises above twice this.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


Encoded = Path | bytes | np.ndarray  # an image file, its content, or pixels uint8 [H, W] or [H, W, 3]


@dataclass(frozen=True, slots=True)
class Packed:
    """An image inside a file.

    Attributes:
        file: an .npz or parquet file.
        part: its array or column.
        row: the index in it.
    """

    file: Path
    part: str
    row: int


Original = Encoded | Packed


class Unreadable(ValueError):
    """The image cannot be decoded; the message says why."""


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: RGB, uint8 [S, S, 3].
        remarks: what a user may not expect of it: keys of `rgjax.data.notes.KINDS`.
    """

    pixels: np.ndarray
    remarks: tuple[str, ...]


class Examined(NamedTuple):
    """Pillow's mode of an image file, its size in pixels, remarks as in `Decoded`."""

    mode: str
    width: int
    height: int
    remarks: tuple[str, ...]


def decode(image: Encoded, size: int, interpolation: str = AUTO) -> np.ndarray:
    """Decode an image to RGB uint8 [size, size, 3].

    Resized by `resampling(interpolation)`; `pixels` has the rules for orientation, transparency and values of more than
    8 bits. Raises Unreadable if the file is not an image, is damaged, or has more than MAX_PIXELS.
    """
    return decode_with_remarks(image, size, interpolation).pixels


def decode_with_remarks(image: Encoded, size: int, interpolation: str = AUTO) -> Decoded:
    """The same as `decode`, with what a user may not expect of the image."""
    with _unreadable(image):
        picture = read_picture(image)
        resized = picture.rgb.resize((size, size), resampling(interpolation))
        return Decoded(np.asarray(resized), (*picture.remarks, *_blank(resized)))


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's filter of a value of `data.interpolation`: bilinear for `AUTO`."""
    return Image.Resampling["BILINEAR" if interpolation == AUTO else interpolation.upper()]


def named(interpolation: str) -> tuple[str, ...]:
    """What `interpolation` adds to the name of a cache: nothing if it is bilinear."""
    name = resampling(interpolation).name
    return () if name == "BILINEAR" else (name,)


def decode_whole(image: Encoded) -> Image.Image:
    """The whole picture as RGB, by the rules of `decode`; raises Unreadable like it."""
    with _unreadable(image):
        return read_picture(image).rgb


def examine(image: Encoded) -> Examined:
    """The properties of an image.

    Reads all of it, faster than `decode`, and raises Unreadable like it.
    """
    with _unreadable(image):
        picture = read_picture(image, draft=True)
        return Examined(picture.mode, *picture.size, (*picture.remarks, *_blank(picture.rgb)))


def _blank(image: Image.Image) -> tuple[str, ...]:
    few = image.resize((16, 16), Image.Resampling.NEAREST)  # most images are told by few pixels
    return ("blank_image",) * (_has_few_levels(few) and _has_few_levels(image))


def _has_few_levels(image: Image.Image) -> bool:
    extrema: Any = image.getextrema()  # of each color
    return all(high - low < _CONTRAST for low, high in extrema)


def is_image(file: Path | bytes) -> bool:
    """Whether a file or its content begins like an image of a common format."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_SIGNED):  # noqa: TID251
            return True
    except _DAMAGE:
        return False


@contextlib.contextmanager
def _unreadable(image: Encoded) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise Unreadable(_reason(image, error)) from error


def _reason(image: Encoded, error: Exception) -> str:
    if image == b"" or (isinstance(image, Path) and image.is_file() and image.stat().st_size == 0):
        return "empty file"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image format that Pillow knows"
    if isinstance(error, IndexError | struct.error):
        return "image file is truncated"
    return one_line(str(error)) or type(error).__name__
