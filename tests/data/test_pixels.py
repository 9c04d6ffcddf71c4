"""Pictures of all types of numbers look as they should: a ramp from black to white is that ramp."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from rgjax.data.pictures.decode import Unreadable, decode, decode_with_remarks, examine
from tests.support.pictures import png16, tiff

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
LEVELS = np.round(RAMP * 255)


def ramp(low, high, kind):
    values = low + RAMP * (high - low)
    return (values if np.dtype(kind).kind == "f" else np.round(values)).astype(kind)


def shown(content):
    """The gray levels of an image, and the remarks of decoding and of examining it."""
    pixels, remarks = decode_with_remarks(content, 16)
    assert examine(content).remarks == remarks
    assert (pixels == pixels[..., :1]).all(), "not gray"
    return pixels[..., 0].astype(int), remarks


@pytest.mark.parametrize(
    "content",
    [
        tiff(ramp(0, 1, "f4")),
        tiff(ramp(0, 255, "f4")),
        tiff(ramp(-3.5, 90, ">f4")),
        tiff(ramp(280, 300, "f4")),
        tiff(ramp(0, 0.01, "f4")),
        tiff(ramp(-1000, 1000, "i2")),
        tiff(ramp(-32768, 32767, ">i2")),
        tiff(ramp(-9000, -8000, "i2")),
        tiff(ramp(-(10**6), 10**9, "i4")),
        tiff(ramp(0, 2**32 - 1, "u4")),
        tiff(ramp(-100, 27, "i1")),
        tiff(ramp(0, 4095, "u2")),
        tiff(ramp(0, 1023, ">u2")),
        tiff(ramp(7000, 8000, "u2")),
        tiff(ramp(0, 4095, "i2")),
        tiff(ramp(1, 0, "f4"), photometric=0),
        tiff(ramp(4095, 0, "u2"), photometric=0),
        png16(ramp(0, 4095, "u2")),
        png16(ramp(0, 1023, "u2")),
        png16(ramp(0, 16383, "u2")),
    ],
)  # fmt: skip
def test_values_without_a_fixed_range_are_scaled_and_said(content):
    levels, remarks = shown(content)
    assert np.abs(levels - LEVELS).max() <= 1
    assert remarks == ("rescaled_image",)


@pytest.mark.parametrize(
    "content",
    [
        tiff(ramp(0, 65535, "u2")),
        tiff(ramp(65535, 0, "u2"), photometric=0),
        tiff(ramp(0, 255, "u1")),
        tiff(ramp(255, 0, "u1"), photometric=0),
        png16(ramp(0, 65535, "u2")),
        b"P5 16 16 4095\n" + ramp(0, 4095, ">u2").tobytes(),
        png16(np.repeat(ramp(0, 65535, "u2")[..., None], 3, axis=2)),
    ],
)
def test_values_with_a_fixed_range_keep_it(content):
    levels, remarks = shown(content)
    assert np.abs(levels - LEVELS).max() <= 1
    assert remarks == ()


def test_a_dark_picture_stays_dark_where_the_range_is_fixed():
    for content in (tiff(ramp(0, 60, "u1")), b"P5 16 16 4095\n" + ramp(0, 960, ">u2").tobytes()):
        levels, remarks = shown(content)
        assert (levels.max(), remarks) == (60, ())


def test_pictures_of_one_depth_are_comparable():
    """Whole numbers are scaled by their depth, not by their extremes."""
    dark, bright = (shown(png16(ramp(0, high, "u2")))[0].max() for high in (2100, 4095))
    assert dark == pytest.approx(bright * 2100 / 4095, abs=1)
    assert shown(tiff(ramp(0.2, 0.8, "f4")))[0].min() == round(0.2 * 255)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("high", [4095, 1023])
@pytest.mark.parametrize("write", [png16, tiff, lambda values: tiff(values, compressed=True)])
def test_colors_of_16_bits_are_scaled_by_their_depth(channels, high, write):
    colors = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 0.5), np.ones_like(RAMP)][:channels], axis=2)
    pixels, remarks = decode_with_remarks(write(np.round(colors * high).astype("u2")), 16)
    assert np.abs(pixels - np.round(colors[..., :3] * 255)).max() <= 1
    assert remarks == ("rescaled_image",)


def test_transparent_gray_of_12_bits_is_refused():
    with pytest.raises(Unreadable, match="16-bit gray with transparency"):
        decode(png16(np.repeat(ramp(0, 4095, "u2")[..., None], 2, axis=2)), 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    values = ramp(0, 1, "f4")
    values[3, 5] = value
    for read in (examine, lambda content: decode(content, 8)):
        with pytest.raises(Unreadable, match="NaN or infinite"):
            read(tiff(values))


@pytest.mark.parametrize("value", [0, 1, -7, 5000])
@pytest.mark.parametrize("kind", ["f4", "i2", "i4"])
def test_a_picture_of_one_value_is_blank(value, kind):
    _, remarks = shown(tiff(np.full((16, 16), value, kind)))
    assert remarks == ("rescaled_image", "blank_image")


def test_a_picture_of_few_levels_is_blank():
    """Masks of classes 0 and 1, for example."""
    for values in (ramp(0, 1, "u1"), ramp(200, 210, "u1"), np.broadcast_to(np.uint8([9, 200, 50]), (16, 16, 3)).copy()):
        assert decode_with_remarks(tiff(values), 16).remarks == ("blank_image",)
    assert shown(tiff(ramp(100, 130, "u1")))[1] == ()


def frames(kind, **options):
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(np.uint8(LEVELS) + shift) for shift in (0, 40, 80))
    first.save(buffer, kind, save_all=True, append_images=rest, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_of_several_frames_is_read_and_said(kind, options):
    levels, remarks = shown(frames(kind, **options))
    np.testing.assert_array_equal(levels, LEVELS)
    assert remarks == ("first_frame",)


def test_the_preview_in_a_photograph_is_no_frame():
    assert shown(frames("MPO"))[1] == ()


def test_lab_is_converted_to_rgb():
    colors = Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 0]], [[255, 255, 255], [30, 60, 200]]]))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    buffer = io.BytesIO()
    ImageCms.profileToProfile(colors, *profiles, outputMode="LAB").save(buffer, "TIFF")
    assert np.abs(decode(buffer.getvalue(), 2).astype(int) - np.asarray(colors)).max() <= 8


def test_a_transparent_color_of_a_palette_is_blended_with_white():
    image = Image.fromarray(np.uint8(LEVELS)).convert("P")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    pixels = decode(buffer.getvalue(), 16)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(pixels[1:, :, 0], LEVELS[1:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM"])
def test_a_truncated_file_is_refused(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    with pytest.raises(Unreadable):
        decode(buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3], 8)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_a_file_cut_anywhere_is_refused_or_its_first_frame_is_read(kind):
    whole = frames(kind)
    for length in range(1, len(whole), 11):
        try:
            decode_with_remarks(whole[:length], 4)
        except Unreadable as error:
            assert str(error)
