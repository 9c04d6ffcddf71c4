"""DeepSMOTE's convolutional autoencoder of square images.

Its kernels are 4x4 with stride 2, and its code is linear. On a CPU, XLA's strided convolutions and their gradients take
twice the time of the matrix products below (at 64x64).
"""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rgjax.models.layers import LinearHead

_SMALLEST = 7  # pixels per side; larger maps are halved


def sides(side: int) -> list[int]:
    """Sides of all maps, from the image to the smallest: halved and rounded up."""
    halved = [side]
    while halved[-1] > _SMALLEST:
        halved.append(-(-halved[-1] // 2))
    return halved


class Autoencoder(nnx.Module):
    """Maps images [B, side, side, 3] in 0..1 to codes [B, latent] and back.

    Both are float32. The first map has `width` channels, and each further one, of half the side, twice as many. `dtype`
    is the precision of the convolutions.
    """

    def __init__(self, side: int, *, width: int, latent: int, dtype=jnp.float32, rng: np.random.Generator):
        self.sides, self.dtype = sides(side), dtype
        channels = [3, *(width * 2**i for i in range(len(self.sides) - 1))]
        self.smallest = (self.sides[-1], self.sides[-1], channels[-1])
        size = int(np.prod(self.smallest))
        self.down = nnx.List([Down(c_in, c_out, rng=rng) for c_in, c_out in pairwise(channels)])
        self.to_code = LinearHead(size, latent, rng=rng)
        self.from_code = LinearHead(latent, size, rng=rng)
        self.up = nnx.List([Up(c_in, c_out, rng=rng) for c_in, c_out in pairwise(reversed(channels))])

    def encode(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B D"]:
        x = images.astype(self.dtype)
        for layer in self.down:
            x = nnx.leaky_relu(layer(x), 0.2)
        return self.to_code(x.reshape(len(x), -1))

    def decode(self, codes: Float[Array, "B D"]) -> Float[Array, "B S S 3"]:
        x = self.from_code(codes).reshape(-1, *self.smallest).astype(self.dtype)
        for layer, side in zip(self.up, self.sides[-2::-1], strict=True):
            x = layer(nnx.leaky_relu(x, 0.2), side)
        return nnx.sigmoid(x.astype(jnp.float32))


class Down(nnx.Module):
    """Convolution with a 4x4 kernel, stride 2 and padding 1.

    It maps [B, H, H, I] to [B, ceil(H / 2), ceil(H / 2), O]. With each 2x2 block of pixels as one cell of 4 I channels,
    it is a convolution with a 2x2 kernel and stride 1: one matrix product of the 2x2 windows of cells.
    """

    def __init__(self, c_in: int, c_out: int, *, rng: np.random.Generator):
        self.kernel, self.bias = _he(rng, 16 * c_in, c_out), nnx.Param(jnp.zeros(c_out, jnp.float32))

    def __call__(self, x):
        odd = x.shape[1] % 2
        x = jnp.pad(x, ((0, 0), (1, 1 + odd), (1, 1 + odd), (0, 0)))
        return _product(_windows(_as_cells(x)), self.kernel, self.bias)


class Up(nnx.Module):
    """Transposed convolution with a 4x4 kernel, stride 2 and padding 1.

    It maps [B, h, h, I] to [B, side, side, O], and reverses the shapes of `Down`: `side` is 2h or 2h - 1. Each 2x2
    window of inputs makes a 2x2 block of pixels, by one matrix product.
    """

    def __init__(self, c_in: int, c_out: int, *, rng: np.random.Generator):
        self.kernel, self.bias = _he(rng, 4 * c_in, 4 * c_out), nnx.Param(jnp.zeros(4 * c_out, jnp.float32))

    def __call__(self, x, side: int):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        cells = _product(_windows(x), self.kernel, self.bias)
        return _as_pixels(cells)[:, 1 : 1 + side, 1 : 1 + side]


def _he(rng: np.random.Generator, fan_in: int, features: int) -> nnx.Param:
    """A kernel by He initialization."""
    normal = rng.standard_normal((fan_in, features), np.float32)
    return nnx.Param(jnp.asarray(normal * np.float32((2 / fan_in) ** 0.5)))


def _product(x, kernel: nnx.Param, bias: nnx.Param):
    """The channels of x [B, H, W, C] times the kernel [C, O], plus the bias."""
    product = x.reshape(-1, x.shape[3]) @ kernel[...].astype(x.dtype) + bias[...].astype(x.dtype)[None]
    return product.reshape(*x.shape[:3], -1)


def _windows(x):
    """The 2x2 windows of x [B, H, W, C] as channels: [B, H - 1, W - 1, 4 C]."""
    vertical = jnp.concatenate([x[:, :-1], x[:, 1:]], axis=3)
    return jnp.concatenate([vertical[:, :, :-1], vertical[:, :, 1:]], axis=3)


def _as_cells(x):
    """The 2x2 blocks of pixels as channels (space to depth): [B, H / 2, W / 2, 4 C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _as_pixels(x):
    """The inverse of `_as_cells` (depth to space)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
