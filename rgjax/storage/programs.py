"""The cache of compiled programs and of the kernels that XLA timed as fastest."""

import logging
import os

import jax

from rgjax.errors import UserError
from rgjax.storage.files import cache_dir

_log = logging.getLogger(__name__)


def cache_programs() -> None:
    """Let JAX keep what it compiles, or warn if the cache cannot be written."""
    try:
        folder = cache_dir() / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "cannot be written", str(folder))
    except UserError as error:
        _log.warning(f"compiled programs are not cached: {error}")
    except OSError as error:
        _log.warning(
            f"compiled programs are not cached: {error.filename}: {error.strerror}; set RGJAX_CACHE to a folder that "
            "can be written"
        )
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # A resumed run takes the kernels of the interrupted one, even if it compiles another program of them.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "xla_gpu_per_fusion_autotune_cache_dir")
