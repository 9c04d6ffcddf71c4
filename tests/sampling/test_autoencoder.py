import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgjax.sampling.autoencoder import Autoencoder, Down, Up, sides


def test_sides_are_halved_to_a_few_pixels():
    assert sides(32) == [32, 16, 8, 4]
    assert sides(224) == [224, 112, 56, 28, 14, 7]
    assert sides(45) == [45, 23, 12, 6]
    assert all(4 <= sides(side)[-1] <= 7 for side in range(8, 225))


@pytest.mark.parametrize("side", [8, 9, 28, 45, 224])
def test_decoding_restores_the_side(side):
    model = Autoencoder(side, width=2, latent=5, rng=np.random.default_rng(0))
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    codes = jax.eval_shape(model.encode, images)
    assert codes.shape == (2, 5)
    assert jax.eval_shape(model.decode, codes).shape == images.shape


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("side", [8, 9])
def test_down_is_a_strided_convolution(side):
    layer, x = Down(3, 5, rng=np.random.default_rng(1)), normal(2, side, side, 3)
    # The kernel's first axis: column and row of the window, then row and column of the cell, then channels.
    kernel = layer.kernel[...].reshape(2, 2, 2, 2, 3, 5).transpose(1, 2, 0, 3, 4, 5).reshape(4, 4, 3, 5)
    pads = [(1, 1 + side % 2)] * 2
    expected = jax.lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("side", [8, 7])
def test_up_is_a_transposed_convolution(side):
    layer, x = Up(3, 5, rng=np.random.default_rng(1)), normal(2, 4, 4, 3)
    # The position of an output in its block selects the taps of the 4x4 kernel that meet the window.
    kernel = layer.kernel[...].reshape(2, 2, 3, 2, 2, 5).transpose(1, 3, 0, 4, 2, 5)[::, ::-1, :, ::-1]
    kernel = kernel.reshape(4, 4, 3, 5)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer(x, side), expected[:, :side, :side], atol=1e-5)
