"""From an image file to pixels: the one way in, for data sets, own folders and predictions alike."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rgjax.errors import one_line

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif .ico .tga"
SUFFIXES = tuple(_SUFFIXES.split())  # by which images are told from other files in a folder
MAX_PIXELS = 2**27  # of an image: 134 million, more than a camera's; in RGB 0.4 GB
_PER_LEVEL = 257  # 16-bit values for one of the 255 steps of 8 bits

# By the size that a file's head tells, for frames within a file too: Pillow warns at this figure, and raises at twice.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(ValueError):
    """An image that cannot be decoded; the message says why."""


def decode(image: bytes | Path, size: int) -> np.ndarray:
    """The image, from its file or the file's content, as uint8 [size, size, 3], RGB, resized bilinearly.

    It is turned as its EXIF data say; 16-bit gray values are scaled to 8 bits, and what is transparent is put before
    white. Raises Unreadable for what is no image, a damaged one, or one of more than MAX_PIXELS.
    """
    with _opened(image) as opened:
        upright = ImageOps.exif_transpose(opened)
        return np.asarray(_in_rgb(upright).resize((size, size), Image.Resampling.BILINEAR))


def examine(image: bytes | Path) -> tuple[str, int, int]:
    """Pillow's mode, width and height of an image, read through, but faster than `decode` does. Raises Unreadable."""
    with _opened(image) as opened:
        found = opened.mode, *opened.size
        opened.draft(None, (1, 1))  # a JPEG at an eighth of its size
        opened.load()
        return found


@contextlib.contextmanager
def _opened(image: bytes | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if opened.format == "EPS":
                raise ValueError("it is a PostScript program, which is not run")
            yield opened
    # What Pillow and the libraries below it raise for damaged files of one kind or the other.
    except (OSError, EOFError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(_reason(image, error)) from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow itself would cut off what is above 255
        levels = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1)
        image = Image.fromarray(((levels + _PER_LEVEL // 2) // _PER_LEVEL).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(image: bytes | Path, error: Exception) -> str:
    empty = not image if isinstance(image, bytes) else image.is_file() and image.stat().st_size == 0
    if empty:
        return "it is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image that Pillow knows"
    return one_line(str(error)) or type(error).__name__
