"""Strict JAX, a private cache, and no word to the network."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RGJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
