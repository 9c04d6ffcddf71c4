import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rgjax.data.decode import Unreadable, decode, examine

LEVELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLORS = np.stack([LEVELS, LEVELS[::-1], np.full_like(LEVELS, 128)], axis=2)


def content(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_file_and_its_content_are_the_same(tmp_path):
    image = Image.fromarray(COLORS)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8), COLORS)
    np.testing.assert_array_equal(decode(content(image), 8), COLORS)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1)])
def test_an_image_of_one_pixel_is_a_square_of_its_color(size):
    found = decode(content(Image.new("RGB", size, (9, 80, 200))), 16)
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8([9, 80, 200]), (16, 16, 3)))


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
def test_gray_images_of_all_kinds_are_the_same_picture(image):
    np.testing.assert_array_equal(decode(content(image), 8), np.repeat(LEVELS[..., None], 3, axis=2))


def test_what_is_transparent_is_put_before_white():
    half = np.concatenate([COLORS, np.full((8, 8, 1), 255, np.uint8)], axis=2)
    half[:4, :, 3] = 0
    found = decode(content(Image.fromarray(half)), 8)
    np.testing.assert_array_equal(found[:4], 255)
    np.testing.assert_array_equal(found[4:], COLORS[4:])


def test_cmyk_is_shown_as_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(content(red, "TIFF"), 8).astype(int) - [255, 0, 0]).max() <= 2


def test_images_are_turned_as_their_exif_data_say():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    found = decode(content(Image.fromarray(COLORS), exif=exif), 8)
    np.testing.assert_array_equal(found, np.rot90(COLORS, -1))


@pytest.mark.parametrize("damaged", [b"", b"no image", content(Image.fromarray(COLORS))[:60]])
def test_what_is_no_image_is_told(damaged):
    with pytest.raises(Unreadable):
        decode(damaged, 8)


def test_any_shape_becomes_a_square():
    assert decode(content(Image.fromarray(COLORS[:3]), "JPEG"), 6).shape == (6, 6, 3)


def test_a_damaged_avif_is_told():
    whole = content(Image.fromarray(np.tile(COLORS, (8, 8, 1))), "AVIF")
    for at in range(len(whole) // 2, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at : at + 4] = b"\xff\x00\xff\x00"
        try:
            decode(bytes(damaged), 8)
        except Unreadable:
            return
    pytest.fail("no damage was told")


def png_of(width: int, height: int) -> bytes:
    """A PNG of black pixels that claims this size, of a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("read", [lambda image: decode(image, 8), examine])
@pytest.mark.parametrize("size", [(60_000, 60_000), (2**14, 2**13 + 1), (2**30, 2**30)])
def test_a_bomb_is_refused_by_the_size_that_it_claims(read, size):
    with pytest.raises(Unreadable, match=r"^it has more than 134,217,728 pixels$"):
        read(png_of(*size))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the module itself does
def test_up_to_the_limit_images_are_read():
    with pytest.raises(Unreadable, match="truncated"):  # of which only the head was made
        decode(png_of(2**14, 2**13), 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the module itself does
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "ICO", "PPM", "TGA"])
def test_the_limit_holds_for_every_kind_of_image(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128)  # Pillow raises at twice this
    assert decode(content(Image.new("RGB", (16, 16)), kind), 8).shape == (8, 8, 3)
    with pytest.raises(Unreadable, match="pixels"):
        decode(content(Image.new("RGB", (17, 17)), kind, **({"sizes": [(17, 17)]} if kind == "ICO" else {})), 8)


def test_postscript_is_not_run():
    with pytest.raises(Unreadable, match="PostScript"):
        decode(content(Image.new("RGB", (8, 8)), "EPS"), 8)
