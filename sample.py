"""python sample.py MODEL --prompt "..." [...]: samples images from a trained model. See --help."""

import sys

from ldm_jax.commands.exit_code import ExitCode, use_utf8

if __name__ == "__main__":
    use_utf8()
    with ExitCode("sample") as status:
        from ldm_jax.commands.sample.run import main

        main(sys.argv[1:])
    sys.exit(status.code)
