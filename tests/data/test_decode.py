import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rgjax.data.images import decode_files
from rgjax.data.pictures.decode import Unreadable, decode, examine, named

LEVELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLORS = np.stack([LEVELS, LEVELS[::-1], np.full_like(LEVELS, 128)], axis=2)


def content(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_file_and_its_content_decode_equally(tmp_path):
    image = Image.fromarray(COLORS)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8), COLORS)
    np.testing.assert_array_equal(decode(content(image), 8), COLORS)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1)])
def test_an_image_of_one_color_is_a_square_of_it(size):
    pixels = decode(content(Image.new("RGB", size, (9, 80, 200))), 16)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8([9, 80, 200]), (16, 16, 3)))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LEVELS),
        Image.fromarray(LEVELS.astype(np.uint16) * 257),
        Image.fromarray(LEVELS).convert("LA"),
        Image.fromarray(LEVELS).convert("P"),
    ],
    ids=lambda image: image.mode,
)
def test_gray_images_of_all_modes_decode_equally(image):
    np.testing.assert_array_equal(decode(content(image), 8), np.repeat(LEVELS[..., None], 3, axis=2))


def test_transparent_pixels_are_blended_with_white():
    half = np.concatenate([COLORS, np.full((8, 8, 1), 255, np.uint8)], axis=2)
    half[:4, :, 3] = 0
    pixels = decode(content(Image.fromarray(half)), 8)
    np.testing.assert_array_equal(pixels[:4], 255)
    np.testing.assert_array_equal(pixels[4:], COLORS[4:])


def test_cmyk_is_converted_to_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(content(red, "TIFF"), 8).astype(int) - [255, 0, 0]).max() <= 2


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    pixels = decode(content(Image.fromarray(COLORS), exif=exif), 8)
    np.testing.assert_array_equal(pixels, np.rot90(COLORS, -1))


@pytest.mark.parametrize("damaged", [b"", b"no image", content(Image.fromarray(COLORS))[:60]])
def test_content_that_is_not_an_image_is_unreadable(damaged):
    with pytest.raises(Unreadable):
        decode(damaged, 8)


def test_any_shape_becomes_a_square():
    assert decode(content(Image.fromarray(COLORS[:3]), "JPEG"), 6).shape == (6, 6, 3)


def test_a_damaged_avif_is_unreadable():
    whole = content(Image.fromarray(np.tile(COLORS, (8, 8, 1))), "AVIF")
    for at in range(len(whole) // 2, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at : at + 4] = b"\xff\x00\xff\x00"
        try:
            decode(bytes(damaged), 8)
        except Unreadable:
            return
    pytest.fail("no damage was detected")


def png_of(width: int, height: int) -> bytes:
    """A PNG of black pixels that claims this size, of a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_bomb_is_refused_by_the_size_in_its_header():
    for read in (lambda image: decode(image, 8), examine):
        for size in ((60_000, 60_000), (2**14, 2**13 + 1), (2**30, 2**30)):
            with pytest.raises(Unreadable, match=r"^more than 134,217,728 pixels$"):
                read(png_of(*size))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # rgjax.data.pictures.decode ignores it too
def test_images_up_to_the_limit_are_read():
    with pytest.raises(Unreadable, match="truncated"):  # the file has little more than a header
        decode(png_of(2**14, 2**13), 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # rgjax.data.pictures.decode ignores it too
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "ICO", "PPM", "TGA"])
def test_the_limit_holds_for_every_format(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128)  # Pillow raises at twice this
    assert decode(content(Image.new("RGB", (16, 16)), kind), 8).shape == (8, 8, 3)
    with pytest.raises(Unreadable, match="pixels"):
        decode(content(Image.new("RGB", (17, 17)), kind, **({"sizes": [(17, 17)]} if kind == "ICO" else {})), 8)


def test_postscript_is_refused():
    with pytest.raises(Unreadable, match="PostScript"):
        decode(content(Image.new("RGB", (8, 8)), "EPS"), 8)


def test_interpolation_is_pillows_and_names_the_caches_of_all_but_bilinear(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    for name in ("auto", "bilinear", "bicubic", "lanczos"):
        expected = picture.resize((16, 16), Image.Resampling["BILINEAR" if name == "auto" else name.upper()])
        np.testing.assert_array_equal(decode(content(picture), 16, name), expected)
    assert [named(name) for name in ("auto", "bilinear", "bicubic")] == [(), (), ("BICUBIC",)]
    picture.save(tmp_path / "a.png")
    soft, sharp = (decode_files([tmp_path / "a.png"], 16, name) for name in ("auto", "lanczos"))
    assert soft.content != sharp.content
