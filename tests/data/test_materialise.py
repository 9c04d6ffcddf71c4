import io

import numpy as np
import pytest
from PIL import Image

from rgjax.data.materialise import _decode

RGB = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_a_lossless_image_of_its_own_size_is_itself():
    np.testing.assert_array_equal(_decode(encoded(Image.fromarray(RGB), "png"), 24), RGB)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    form = "tiff" if mode == "CMYK" else "png"
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(_decode(encoded(image, form), 24), np.asarray(image.convert("RGB")))


def test_any_shape_becomes_a_square():
    assert _decode(encoded(Image.fromarray(RGB[:10]), "jpeg"), 8).shape == (8, 8, 3)
