"""Depthwise convolution, lowered to the form that each platform runs fast.

Shapes: images `x` are [B, H, W, C] (NHWC), kernels `w` are [k, k, C]; both share one dtype.
"""

import jax
from jax import lax


def depthwise(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution of each channel by its own kernel, padded as by TensorFlow's 'SAME'.

    Args:
        x: images [B, H, W, C].
        w: kernel [k, k, C] in the dtype of `x`.
        stride: step of the window, the same along both axes.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C] in the dtype of `x`.
    """
    return lax.conv_general_dilated(
        x,
        w[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )
