"""Programs that run a few steps are not worth optimising."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Module by module: pytest would undo it for the whole folder only at the end of everything."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
