"""python train.py [EXPERIMENT] [--field value ...]: trains both stages. See --help."""

import sys

from ldm_jax.experiments.command import train_main

if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:]))
