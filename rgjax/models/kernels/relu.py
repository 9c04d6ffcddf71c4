"""ReLU joined with the operation beside it, with gradients written by hand.

Images are [B, H, W, C] in any dtype of floats. Both functions keep less for the backward pass than their parts would:
on accelerators, traffic to memory is what a step of a ResNet waits for.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_NONE = np.uint8(9)  # in place of a position in a window: none of its values is positive


@jax.custom_vjp
def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """`relu(x + y)`, whose backward pass reads the result instead of both inputs."""
    return jax.nn.relu(x + y)


def _add_relu_forward(x, y):
    result = add_relu(x, y)
    return result, lax.optimization_barrier(result)  # without the barrier, XLA computes the mask from x and y again


def _add_relu_backward(result, gradient):
    gradient = jnp.where(result > 0, gradient, jnp.zeros_like(gradient))
    return gradient, gradient


add_relu.defvjp(_add_relu_forward, _add_relu_backward)


@jax.custom_vjp
def relu_max_pool(x: jax.Array) -> jax.Array:
    """Maximum of `relu(x)` over 3x3 windows of stride 2, padded by one.

    [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]. XLA's own gradient of a windowed maximum is a scatter, on GPUs by
    compare-and-swap: slow, and with sums in another order in every run. A GPU remembers the position of each maximum
    instead, the first of equal ones as in torch. On a CPU, maxima of strided slices are faster; there, equal values
    share the gradient. A TPU gets XLA's form.
    """
    return lax.platform_dependent(x, cpu=_max_of_slices, default=_max_of_windows)


def _pool_forward(x):
    def without_positions(form, x):
        y = form(x)
        return y, jnp.zeros(y.shape, jnp.uint8)

    cpu, tpu = partial(without_positions, _max_of_slices), partial(without_positions, _max_of_windows)
    y, positions = lax.platform_dependent(x, cpu=cpu, tpu=tpu, default=_max_with_positions)
    return y, (x, positions)  # each platform reads one of the two, and XLA drops the other


def _pool_backward(saved, dy):
    def differentiated(form, x, positions, dy):
        return jax.vjp(form, x)[1](dy)[0]

    cpu, tpu = partial(differentiated, _max_of_slices), partial(differentiated, _max_of_windows)
    return (lax.platform_dependent(*saved, dy, cpu=cpu, tpu=tpu, default=_to_positions),)


relu_max_pool.defvjp(_pool_forward, _pool_backward)


def _max_of_windows(x):
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(jax.nn.relu(x), np.array(-np.inf, x.dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def _max_of_slices(x):
    x = _padded(jax.nn.relu(x))
    for axis in (1, 2):
        x = reduce(jnp.maximum, [_every_second(x, i, axis) for i in range(3)])
    return x


def _max_with_positions(x):
    x = _padded(x)  # with zeros, which a ReLU would put in the place of anything smaller
    best, *rest = (_every_second(_every_second(x, i, 1), j, 2) for i in range(3) for j in range(3))
    position = jnp.zeros(best.shape, jnp.uint8)
    for number, value in enumerate(rest, 1):
        better = (value > best) | jnp.isnan(value)
        best, position = jnp.where(better, value, best), jnp.where(better, np.uint8(number), position)
    return jax.nn.relu(best), jnp.where(best > 0, position, _NONE)


def _to_positions(x, positions, dy):
    """Add the gradient of each window at the position of its maximum."""

    def dilated(axis, start):
        # Window r begins at index 2 r - 1 of the images: dilate by 2, shift, and cut to the images.
        return start - 1, x.shape[axis] - 2 * dy.shape[axis] - start + 2, 1

    zero, moved = np.zeros((), dy.dtype), []
    for number in range(9):
        pads = (0, 0, 0), dilated(1, number // 3), dilated(2, number % 3), (0, 0, 0)
        moved.append(lax.pad(jnp.where(positions == np.uint8(number), dy, zero), zero, pads))
    # The barrier keeps the result in its dtype: XLA would widen it to float32 together with its reader.
    return lax.optimization_barrier(sum(moved[1:], moved[0]))


def _padded(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _every_second(x, start, axis):
    """Elements `start`, `start + 2`, ... of a padded axis, one for each window."""
    last = (x.shape[axis] - 3) // 2 * 2
    return lax.slice_in_dim(x, start, start + last + 1, stride=2, axis=axis)
