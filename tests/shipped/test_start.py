"""What sampling from a packed run does not wait for."""

import subprocess
import sys

SLOW_TO_IMPORT = ("orbax", "matplotlib.figure", "tensorflow_datasets", "scipy.linalg")


def test_a_packed_run_is_opened_without_what_only_training_needs(packed):
    code = f"""
import sys
import ldm_jax.commands.sample.run
ldm_jax.load({str(packed)!r})
print([name for name in {SLOW_TO_IMPORT} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
