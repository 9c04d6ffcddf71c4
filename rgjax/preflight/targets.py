"""Accelerators that a program can be compiled for without having one."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rgjax.errors import UserError, first_line, unknown
from rgjax.sharding import GPU_MEMORY


@dataclass(frozen=True)
class Card:
    """One accelerator, by its maker's figures.

    Attributes:
        title: its full name.
        platform: "cuda" or "tpu".
        memory: bytes; of a TPU, those that XLA leaves to programs (15.75 GiB of a v5e's 16).
        bandwidth: of the memory, bytes/s.
        bfloat16: dense peak, FLOP/s.
        float32: peak of float32 products as JAX computes them by default, TF32 on a GPU and bfloat16 on a TPU.
        link: to other cards, bytes/s in each direction.
        cache: bytes of its L2; 0 on a TPU, whose vector memory XLA itself fills.
        details: further fields of XLA's description of a GPU.
    """

    title: str
    platform: str
    memory: int
    bandwidth: float
    bfloat16: float
    float32: float
    link: float
    cache: int = 0
    details: str = ""

    @property
    def pace(self) -> "Pace":
        return PACES[self.platform]

    @property
    def usable(self) -> int:
        """Bytes that JAX allocates in our commands."""
        return int(self.memory * (GPU_MEMORY if self.platform == "cuda" else 1.0))


@dataclass(frozen=True)
class Pace:
    """What a prediction assumes; nothing of it is measured.

    Attributes:
        bandwidth: share of the memory's bandwidth that kernels reach.
        arithmetic: share of the arithmetic peak that products and convolutions reach.
        kernel_s: seconds that each kernel takes to start and to end.
        all_reduce_s: seconds that each sum over devices takes besides its bytes.
    """

    bandwidth: float
    arithmetic: float
    kernel_s: float
    all_reduce_s: float


PACES = {"cuda": Pace(0.85, 0.6, 2e-6, 2e-5), "tpu": Pace(0.85, 0.6, 1e-6, 5e-6)}

# From XLA's own descriptions (xla/backends/gpu/target_config/specs).
_AMPERE = (
    "core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41 "
    "shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 } "
    'platform_version: "Compute Capability 8.0"'
)
_HOPPER = (
    "core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 "
    "shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 "
    "cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES } "
    'platform_version: "Compute Capability 9.0"'
)
_BLACKWELL = (
    "core_count: 148 fpus_per_core: 128 clock_rate_ghz: 1.965 "
    "shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 "
    "cuda_compute_capability { major: 10 feature_extension: ACCELERATED_FEATURES } "
    'platform_version: "Compute Capability 10.0"'
)

# Rates by the makers' datasheets: NVIDIA's A100 (2021), H100 SXM, H200 SXM and DGX B200 (an eighth of it), without
# sparsity; NVLink counts half in each direction. Google's cloud.google.com/tpu/docs/v5e and v6e. Memory and caches of
# GPUs as their driver reports them to XLA.
CARDS = {
    "a100": Card("NVIDIA A100-SXM4-40GB", "cuda", 42_331_013_120, 1.555e12, 312e12, 156e12, 300e9, 41_943_040, _AMPERE),
    "a100-80gb": Card(
        "NVIDIA A100-SXM4-80GB", "cuda", 84_987_740_160, 2.039e12, 312e12, 156e12, 300e9, 41_943_040, _AMPERE
    ),
    "h100": Card(
        "NVIDIA H100 80GB HBM3", "cuda", 84_942_979_072, 3.35e12, 989e12, 494.5e12, 450e9, 52_428_800, _HOPPER
    ),
    "h200": Card(
        "NVIDIA H200 141GB HBM3e", "cuda", 151_397_597_184, 4.8e12, 989e12, 494.5e12, 450e9, 52_428_800, _HOPPER
    ),
    "b200": Card("NVIDIA B200", "cuda", 191_514_411_008, 8e12, 2250e12, 1100e12, 900e9, 132_644_864, _BLACKWELL),
    "v5e": Card("TPU v5e", "tpu", 16_911_433_728, 8.19e11, 197e12, 197e12, 200e9),
    "v6e": Card("TPU v6e", "tpu", 33_554_432_000, 1.64e12, 918e12, 918e12, 400e9),
}
_TPU_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4"}
_INSTALL = {"cuda": "uv sync --extra cuda13` or `--extra cuda12", "tpu": "uv sync --extra tpu"}


@dataclass(frozen=True)
class Target:
    """`count` equal cards; `name` is CARD, or CARD-COUNT."""

    name: str
    card: Card
    count: int

    def devices(self) -> list[Any]:
        """Descriptions of the cards, which programs can be compiled for.

        Raises UserError if the compiler is not installed.
        """
        from jax.experimental import topologies

        platform = self.card.platform
        try:
            if not compiler_installed(platform):
                raise ModuleNotFoundError("not installed")
            if platform == "cuda":
                description = topologies.get_topology_desc(
                    topology_name="",
                    platform="cuda",
                    target_config=_gpu_config(self.card),
                    topology=f"1x1x{self.count}",
                )
            else:
                os.environ.update(_NO_TPU_HERE)
                alone = {"chips_per_host_bounds": (1, 1, 1)} if self.count == 1 else {}
                family = self.name.partition("-")[0]
                description = topologies.get_topology_desc(
                    topology_name=f"{family}:{_TPU_GRIDS[self.count]}", platform="tpu", **alone
                )
        except Exception as error:  # a plugin may raise anything as it loads
            raise UserError(
                f"--target={self.name}: needs XLA's {platform} compiler ({first_line(error)}); run "
                f"`{_INSTALL[platform]}`"
            ) from error
        return list(description.devices)


def find(names: str) -> list[Target]:
    """The targets of a comma-separated list. Raises UserError for an unknown one."""
    return [_find(name.strip().lower()) for name in names.split(",")]


def _find(name: str) -> Target:
    known = dict(_all())
    if name not in known:
        raise unknown("--target", name, known)
    return known[name]


def _all() -> Iterator[tuple[str, Target]]:
    for name, card in CARDS.items():
        for count in _TPU_GRIDS if card.platform == "tpu" else (1, 2, 4, 8):
            full = name if count == 1 else f"{name}-{count}"
            yield full, Target(full, card, count)


def compiler_installed(platform: str) -> bool:
    """Whether the package with XLA's compiler for the platform is installed."""
    modules = {"cuda": ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), "tpu": ("libtpu",)}[platform]
    return any(_importable(module) for module in modules)


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


# Keeps libtpu from asking the host, which takes long.
_NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # there is no TPU to compete for
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def _gpu_config(card: Card) -> str:
    """XLA's GpuTargetConfigProto as text: the description of a GPU that is absent."""
    return f"""
gpu_device_info {{
  {card.details} l2_cache_size: {card.cache}
  memory_bandwidth: {card.bandwidth:.0f} device_memory_size: {card.memory}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" device_address_bits: 64 name: "{card.title}" dnn_version: "9.10.0"
  driver_version: "12.9.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{card.title}"
"""
