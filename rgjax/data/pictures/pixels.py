"""Read any picture as 8-bit RGB.

Exported runs contain a copy of this file, so it imports nothing of rgjax.

The levels that become black and white:

    8 bits or fewer per value    0 and 255: nothing changes
    unsigned integers            0 and the largest value of the fewest bits that hold the file's maximum
    floats within [0, 1]         0 and 1
    other floats, signed values  the file's minimum and maximum

A file whose values fill less than a quarter of its range is scaled by its minimum and maximum instead.
"""

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

Source = Path | str | bytes | np.ndarray  # a file, its content, or 8-bit pixels

_INVERTED, _SAMPLE_FORMAT = 262, 339  # TIFF's tags PhotometricInterpretation, which is 0, and SampleFormat
_SIGNED = ((2,), 2)  # values of SampleFormat


class Picture(NamedTuple):
    """A picture, upright and without transparency.

    Attributes:
        rgb: its pixels.
        mode: Pillow's mode of the file.
        size: width and height of the file, in pixels.
        remarks: "rescaled_image", "first_frame": what a user may not expect.
    """

    rgb: Image.Image
    mode: str
    size: tuple[int, int]
    remarks: tuple[str, ...]


def read_picture(file: Source, *, draft: bool = False) -> Picture:
    """Read an image; `draft` shrinks a JPEG to an eighth.

    Raises the errors of Pillow, or ValueError.
    """
    with _open(file) as opened:
        mode, size = opened.mode, opened.size
        # A photograph with a preview, an MPO, has frames too.
        frames = opened.format != "MPO" and getattr(opened, "is_animated", False)
        wide = ";16" in _raw_mode(opened) and mode in ("RGB", "RGBA")
        if draft:
            opened.draft(None, (1, 1))
        image, rescaled = _eight_bits(opened)
    if wide and (top := np.asarray(image.convert("RGB")).max()) < 128:
        image, rescaled = _wide_color(file), bool(top)
    remarks = ("rescaled_image",) * rescaled + ("first_frame",) * frames
    return Picture(_opaque_rgb(image), mode, size, remarks)


def _open(file: Source) -> Any:
    if isinstance(file, np.ndarray):
        return Image.fromarray(file)
    opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)  # noqa: TID251
    if opened.format == "EPS":
        opened.close()
        raise ValueError("PostScript is not supported")
    return opened


def _raw_mode(opened: Any) -> str:
    """Pillow's name for the pixels as they lie in the file."""
    arguments = opened.tile[0].args if getattr(opened, "tile", None) else None
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if isinstance(name, str) else ""


def _eight_bits(opened: Image.Image) -> tuple[Image.Image, bool]:
    """The upright picture with 8 bits per value, and whether its values were rescaled."""
    ImageOps.exif_transpose(opened, in_place=True)  # without a copy
    image = opened
    tags: Any = getattr(opened, "tag_v2", {})
    signed = tags.get(_SAMPLE_FORMAT) in _SIGNED
    if image.mode == "L" and signed:
        values = np.asarray(image).view(np.int8)
    elif image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype == np.int32 and tags and not signed:
            values = values.view(np.uint32)
    else:
        return image, False
    declared = 2**16 - 1 if opened.format == "PPM" and image.mode == "I" else 0  # Pillow scales these to 16 bits
    levels, rescaled = to_levels(values, declared)
    if tags.get(_INVERTED) == 0:  # Pillow inverts 8-bit values only
        levels = 255 - levels
    return Image.fromarray(levels), rescaled


def to_levels(values: np.ndarray, declared: float = 0) -> tuple[np.ndarray, bool]:
    """Scale numbers of any type to uint8 by the rule above.

    Args:
        values: any shape.
        declared: the value of white, if the format of the file fixes it.

    Returns:
        The levels, and False if black and white are those of 16 bits or `declared`.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("it has NaN or infinite pixels")
    black, white = _black_and_white(low, high, np.issubdtype(values.dtype, np.integer))
    rescaled = (black, white) != (0, 2**16 - 1) or values.dtype.itemsize != 2
    if declared:
        black, white, rescaled = 0, declared, False
    if black == white:
        return np.zeros(values.shape, np.uint8), rescaled
    levels = values.astype(np.float64)
    levels -= black
    levels *= 255 / (white - black)
    return np.rint(levels, out=levels).astype(np.uint8), rescaled


def _black_and_white(low: float, high: float, integers: bool) -> tuple[float, float]:
    black, white = low, high
    if low >= 0 and integers:
        black, white = 0, 2 ** int(high).bit_length() - 1
    elif low >= 0 and high <= 1:
        black, white = 0, 1
    return (low, high) if 0 < high - low < (white - black) / 4 else (black, white)


def _wide_color(file: Source) -> Image.Image:
    """A picture with 16 bits per color whose values use 15 bits at most.

    Pillow keeps the high byte of a value alone. It keeps the low byte if it is told the other byte order.
    """
    bytes_of_values = []
    for orders in ({}, {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}):
        with _open(file) as opened:
            raw_mode = _raw_mode(opened)
            if raw_mode.startswith("LA"):  # Pillow has no other byte order for it
                raise ValueError("16-bit gray with transparency, of which it uses fewer bits; save it with 8 bits")
            other = raw_mode[:-1] + orders.get(raw_mode[-1], raw_mode[-1])
            opened.tile = [
                tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
                for tile in opened.tile
            ]
            bytes_of_values.append(np.asarray(ImageOps.exif_transpose(opened)).astype(np.uint16))
    values = bytes_of_values[0] * 256 + bytes_of_values[1]
    levels = [to_levels(values[..., :3])[0], *([to_levels(values[..., 3:])[0]] if values.shape[2] == 4 else [])]
    return Image.fromarray(np.concatenate(levels, axis=2))


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")  # type: ignore[return-value]
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
