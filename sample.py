"""python sample.py MODEL --prompt "..." [...]: samples images from a trained model. See --help."""

import sys

from ldm_jax.commands.sample.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
