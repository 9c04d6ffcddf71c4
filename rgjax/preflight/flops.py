"""The arithmetic of one step of a training loop, counted from the traced program."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np


def step_flops(jaxpr: Any, platform: str, devices: int) -> dict[str, float]:
    """FLOPs of one step on one of the `devices`, by the dtype of the operands.

    The step is the body of the `while` loop with the most FLOPs. Each product in a convolution or matrix product
    counts as two, unless it meets padding or the zeros of a dilation, as in XLA's own analysis. A loop of known length
    counts as often as it runs; of branches that depend on the platform only that of `platform` counts. Element-wise
    operations do not count. Work outside a shard_map is assumed to be spread evenly over the devices.
    """
    loops = [_total(loop.params["body_jaxpr"].jaxpr, platform, share) for loop, share in _loops(jaxpr, 1 / devices)]
    return max(loops, key=lambda flops: sum(flops.values()), default={})


def _total(jaxpr: Any, platform: str, share: float) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for eqn in _used(jaxpr):
        name, params = eqn.primitive.name, eqn.params
        if name in ("conv_general_dilated", "dot_general"):
            count = _convolution(eqn) if name == "conv_general_dilated" else _dot(eqn)
            total[str(eqn.invars[0].aval.dtype)] += count * share
        inner = 1.0 if name == "shard_map" else share
        times = params["length"] if name == "scan" else 1
        for sub in _subprograms(eqn, platform):
            for dtype, count in _total(sub, platform, inner).items():
                total[dtype] += times * count
    return total


def _used(jaxpr: Any) -> list[Any]:
    """The equations that the results depend on.

    XLA drops the rest, such as forward passes that were traced twice.
    """
    needed, used = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(out) in needed for out in eqn.outvars):
            needed.update(map(id, eqn.invars))
            used.append(eqn)
    return used


def _loops(jaxpr: Any, share: float) -> Iterator[tuple[Any, float]]:
    """The outermost loops of unknown length, and one device's share of their work."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn, share
        else:
            for sub in _subprograms(eqn, ""):
                yield from _loops(sub, 1.0 if eqn.primitive.name == "shard_map" else share)


def _subprograms(eqn: Any, platform: str) -> list[Any]:
    params = eqn.params
    if eqn.primitive.name == "cond" and params.get("branches_platforms"):
        # A branch names its platforms; the one named None is for all others.
        choices = params["branches_platforms"]
        chosen = [i for i, names in enumerate(choices) if names and platform in names] or [choices.index(None)]
        return [params["branches"][chosen[0]].jaxpr]
    if eqn.primitive.name == "while":
        return [params["body_jaxpr"].jaxpr]
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    return [v if hasattr(v, "eqns") else v.jaxpr for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * int(np.prod(eqn.outvars[0].aval.shape, dtype=np.int64)) * int(np.prod([shape[d] for d in contracted]))


def _convolution(eqn: Any) -> int:
    params = eqn.params
    lhs, rhs, out = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    numbers = params["dimension_numbers"]
    products = 1
    for axis, (before, _) in enumerate(params["padding"]):
        # The input position where each output meets each tap of the kernel.
        outputs = np.arange(out[numbers.out_spec[2 + axis]])[:, None] * params["window_strides"][axis]
        taps = np.arange(rhs[numbers.rhs_spec[2 + axis]])[None] * params["rhs_dilation"][axis]
        at, spread = outputs + taps - before, params["lhs_dilation"][axis]
        size = (lhs[numbers.lhs_spec[2 + axis]] - 1) * spread + 1
        products *= int(((at >= 0) & (at < size) & (at % spread == 0)).sum())
    batch = out[numbers.out_spec[0]]
    return 2 * products * batch * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
