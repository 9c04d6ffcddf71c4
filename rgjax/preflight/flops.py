"""The arithmetic of one step of a training loop, counted from the traced program."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np


def step_flops(jaxpr: Any, platform: str, devices: int) -> dict[str, float]:
    """FLOPs of one step on one of the `devices`, by the dtype of the operands.

    Two for each product of a convolution or matrix product that does not meet padding or the zeros of a dilation, as
    XLA's own analysis counts; the step is the body of the `while` that does most. Loops of a known length count as
    often as they run, and of what depends on the platform the `platform`'s branch counts. Element-wise work is left
    out. What stands outside a shard_map is taken to be spread evenly over the devices.
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
    """The equations that the results depend on: a backward pass is traced together with forward passes that XLA
    then leaves out."""
    needed, used = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(out) in needed for out in eqn.outvars):
            needed.update(map(id, eqn.invars))
            used.append(eqn)
    return used


def _loops(jaxpr: Any, share: float) -> Iterator[tuple[Any, float]]:
    """The outermost loops of unknown length, and the share of their work that is one device's."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn, share
        else:
            for sub in _subprograms(eqn, ""):
                yield from _loops(sub, 1.0 if eqn.primitive.name == "shard_map" else share)


def _subprograms(eqn: Any, platform: str) -> list[Any]:
    params = eqn.params
    if eqn.primitive.name == "cond" and params.get("branches_platforms"):
        # One branch is for the platform by name, the one named by None for all others.
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
        # The place in the input that each output and each tap of the kernel meet at.
        outputs = np.arange(out[numbers.out_spec[2 + axis]])[:, None] * params["window_strides"][axis]
        taps = np.arange(rhs[numbers.rhs_spec[2 + axis]])[None] * params["rhs_dilation"][axis]
        at, spread = outputs + taps - before, params["lhs_dilation"][axis]
        size = (lhs[numbers.lhs_spec[2 + axis]] - 1) * spread + 1
        products *= int(((at >= 0) & (at < size) & (at % spread == 0)).sum())
    batch = out[numbers.out_spec[0]]
    return 2 * products * batch * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
