"""Decode image files: used by all data sets, custom folders and predictions."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rgjax.errors import one_line

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif .ico .tga"
SUFFIXES = tuple(_SUFFIXES.split())  # files in a folder with another suffix are not images
MAX_PIXELS = 2**27  # per image: 134 million, more than cameras have; 0.4 GB as RGB
_PER_LEVEL = 257  # number of 16-bit values per 8-bit value: 65,535 / 255

# Pillow compares the size in the header, of frames inside a file too: it warns above this and raises above twice this.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(ValueError):
    """The image cannot be decoded; the message says why."""


def decode(image: bytes | Path, size: int) -> np.ndarray:
    """Decode an image file, or its content, to RGB uint8 [size, size, 3].

    Resized bilinearly. The EXIF orientation is applied, 16-bit gray values are scaled to 8 bits, and transparent pixels
    are blended with white. Raises Unreadable if the file is not an image, is damaged, or has more than MAX_PIXELS.
    """
    with _open(image) as opened:
        upright = ImageOps.exif_transpose(opened)
        return np.asarray(_to_rgb(upright).resize((size, size), Image.Resampling.BILINEAR))


def examine(image: bytes | Path) -> tuple[str, int, int]:
    """Pillow's mode, the width and the height of an image.

    Reads all of it, faster than `decode`, and raises Unreadable like it.
    """
    with _open(image) as opened:
        mode, (width, height) = opened.mode, opened.size
        opened.draft(None, (1, 1))  # decodes a JPEG at an eighth of its size
        opened.load()
        return mode, width, height


@contextlib.contextmanager
def _open(image: bytes | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:  # noqa: TID251
            if opened.format == "EPS":
                raise ValueError("PostScript is not supported")
            yield opened
    # Pillow and the libraries below it raise all of these for damaged files.
    except (OSError, EOFError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(_reason(image, error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow itself clips values above 255
        levels = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1)
        image = Image.fromarray(((levels + _PER_LEVEL // 2) // _PER_LEVEL).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(image: bytes | Path, error: Exception) -> str:
    empty = not image if isinstance(image, bytes) else image.is_file() and image.stat().st_size == 0
    if empty:
        return "empty file"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image format that Pillow knows"
    return one_line(str(error)) or type(error).__name__
