"""XLA's options for a run's programs, by which they give the same bits every time."""

_OPTIONS = {
    "auto": "xla_gpu_exclude_nondeterministic_ops",
    "on": "xla_gpu_deterministic_ops",
}


def compiler_options(deterministic: str, platform: str) -> tuple[tuple[str, bool], ...]:
    """XLA's options for a value of `train.deterministic`; none but on GPUs.

    Elsewhere XLA's programs give the same bits anyway. On a GPU, some kernels add by atomics, in an order that varies,
    and XLA times several kernels for each convolution and product and takes the fastest. "auto" excludes the former;
    the choices of the latter are cached beside the programs (`storage.programs`). "on" also chooses without timing.
    """
    if platform not in ("gpu", "cuda", "rocm") or deterministic == "off":
        return ()
    return ((_OPTIONS[deterministic], True),)
