"""XLA's options for a run's programs, by which they give equal bits every time."""

_REPEATABLE = {
    "auto": "xla_gpu_exclude_nondeterministic_ops",
    "on": "xla_gpu_deterministic_ops",
}


def compiler_options(deterministic: str, platform: str) -> tuple[tuple[str, bool], ...]:
    """XLA's options for a value of `train.deterministic`; none but on GPUs.

    Elsewhere XLA's programs give the same bits anyway. On a GPU, some kernels add by atomics, in an order that varies;
    these are excluded. XLA also times several kernels for each convolution and product and takes the fastest; with
    these options, jaxlib 0.10 to 0.12 takes the first that its libraries propose. Those of cuDNN and cuBLAS are good
    ones. Of XLA's own products, by Triton, the first has tiles of 16 x 16, and without a device jaxlib 0.12 finds none:
    they are left out. (Older versions still time with "auto"; `storage.programs` keeps their choices.)
    """
    if platform not in ("gpu", "cuda", "rocm") or deterministic == "off":
        return ()
    return ((_REPEATABLE[deterministic], True), ("xla_gpu_enable_triton_gemm", False))
