"""python train.py [EXPERIMENT] [--field value ...]: trains both stages. See --help."""

import sys

from ldm_jax.commands.train.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
