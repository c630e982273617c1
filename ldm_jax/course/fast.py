"""The fast mode of the notebooks: every cell runs, with smaller numbers."""

from __future__ import annotations

import os

VARIABLE = "LDM_JAX_NOTEBOOK_FAST"


def size(full: int, fast: int) -> int:
    """`full`; or `fast`, where the environment variable LDM_JAX_NOTEBOOK_FAST is 1.

    The tests run the notebooks in the fast mode. A reader never needs it.
    """
    return fast if os.environ.get(VARIABLE) == "1" else full
