"""`import ldm_jax`: what it offers, and how little it costs."""

import subprocess
import sys

import pytest

import ldm_jax


def run(code):
    """What a new Python prints."""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_it_imports_neither_jax_nor_numpy():
    """JAX takes seconds; what is named is imported when it is first used."""
    loaded = run(
        "import sys, ldm_jax; print(*sorted(m.split('.')[0] for m in sys.modules))"
    ).split()
    assert "ldm_jax" in loaded
    assert not {"jax", "jaxlib", "flax", "numpy", "orbax", "tyro", "PIL", "matplotlib"} & {*loaded}


def test_it_takes_next_to_no_time():
    """The best of three, as the machine may be busy."""
    code = "import time; s = time.process_time(); import ldm_jax; print(time.process_time() - s)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_what_it_offers():
    from ldm_jax.model.latent_diffusion import LatentDiffusion
    from ldm_jax.model.load import load

    assert ldm_jax.load is load and ldm_jax.LatentDiffusion is LatentDiffusion
    assert set(ldm_jax.__all__) == {"load", "LatentDiffusion"} <= set(dir(ldm_jax))
    with pytest.raises(AttributeError, match="has no attribute 'sample'"):
        _ = ldm_jax.sample


def test_an_older_jax_in_the_session_is_said_with_what_to_restart():
    ldm_jax.check_jax("0.10.2", "0.10.2")
    ldm_jax.check_jax("0.10.2.dev20260101", "0.10.2.dev20260102+g12")
    with pytest.raises(ImportError, match="loaded JAX 0.7.2, but 0.10.2 .*restart the session"):
        ldm_jax.check_jax("0.7.2", "0.10.2")
    code = "import types, sys; sys.modules['jax'] = types.ModuleType('jax'); import ldm_jax; "
    assert run(code + "print('fine')") == "fine\n"  # only begun to be imported
