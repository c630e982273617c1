"""`python -m ldm_jax.data.scenes JOB`: draws one stretch of a source; started by `drawing`."""

import json
import os
import sys
from pathlib import Path

from ldm_jax.data.scenes.drawing import draw_stretch, save
from ldm_jax.data.scenes.source import ScenesSource


def say(count: int) -> None:
    """Prints one line in one write: the processes share a pipe, and lines must not mix."""
    os.write(sys.stdout.fileno(), b"%d\n" % count)


if __name__ == "__main__":
    parameters, start, stop, path = json.loads(sys.argv[1])
    arrays = draw_stretch(ScenesSource(**parameters), start, stop, say)
    save(Path(path), arrays)
