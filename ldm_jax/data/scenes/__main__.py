"""`python -m ldm_jax.data.scenes JOB`: renders one range of a source; started by `cache`."""

import json
import sys
from pathlib import Path

from ldm_jax.data.scenes.cache import render_range, save
from ldm_jax.data.scenes.source import ScenesConfig, ScenesSource
from ldm_jax.processes import print_count

if __name__ == "__main__":
    config, split, seed, extras, start, stop, path = json.loads(sys.argv[1])
    source = ScenesSource(ScenesConfig(**config), split, seed, extras)
    save(Path(path), render_range(source, start, stop, print_count))
