"""A trace of the steps that were asked for, and of no others."""

import gzip
import json

import jax
import jax.numpy as jnp

from ldm_jax.training.profile import FIRST, profiled


def test_some_steps_are_traced_and_none_is_changed(tmp_path):
    @jax.jit
    def step(state, batch):
        return state + batch, {"loss": state}

    call, state = profiled(step, 2, tmp_path / "profile"), jnp.zeros(())
    for _ in range(FIRST + 4):
        state, _ = call(state, jnp.ones(()))
    assert state == FIRST + 4
    [file] = (tmp_path / "profile").rglob("*.trace.json.gz")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))  # what xprof reads
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    numbers = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
    assert numbers == {str(FIRST + 1), str(FIRST + 2)}
