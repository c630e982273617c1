"""python sample.py RUN [--caption "..."] [...]: draws images from a trained run. See --help."""

import sys

from ldm_jax.experiments.command import sample_main

if __name__ == "__main__":
    sys.exit(sample_main(sys.argv[1:]))
