"""python -m ldm_jax.pretrained FILE --model NAME --out RUN: published weights. See --help."""

import sys

from ldm_jax.experiments.command import weights_main

if __name__ == "__main__":
    sys.exit(weights_main(sys.argv[1:]))
