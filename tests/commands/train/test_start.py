"""What the first step of a training does not wait for."""

import subprocess
import sys

# They draw curves, judge samples, read data sets and published weights.
LATER = ("scipy", "matplotlib.figure", "tensorflow_datasets", "tensorflow", "torch", "safetensors")


def test_what_only_later_steps_need_is_imported_later():
    code = f"""
import sys
import ldm_jax.commands.train.run
print([name for name in {LATER} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
