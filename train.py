"""python train.py [EXPERIMENT] [--field value ...]: trains both stages. See --help."""

import sys

from ldm_jax.commands import overview
from ldm_jax.commands.exit_code import ExitCode, use_utf8

if __name__ == "__main__":
    use_utf8()
    with ExitCode("train") as status:
        if not overview.shown(sys.argv[1:]):
            from ldm_jax.commands.train.run import main  # takes seconds

            main(sys.argv[1:])
    sys.exit(status.code)
