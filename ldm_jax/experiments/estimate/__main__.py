"""python -m ldm_jax.experiments.estimate EXPERIMENT --topology v5e:16x16 [...]. See --help."""

import sys

from ldm_jax.experiments.command import estimate_main

if __name__ == "__main__":
    sys.exit(estimate_main(sys.argv[1:]))
