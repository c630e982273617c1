"""Feature networks on whole images take longer to run than to optimise."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _all_optimizations():
    """Module by module: pytest would undo it for the whole folder only at the end of everything."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
