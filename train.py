"""python train.py [EXPERIMENT] [--field value ...]: trains both stages. See --help."""

import sys

from ldm_jax.commands.exit_code import ExitCode, use_utf8

if __name__ == "__main__":
    use_utf8()
    with ExitCode("train") as status:
        from ldm_jax.commands.train.run import main

        main(sys.argv[1:])
    sys.exit(status.code)
