"""The fast mode of the notebooks."""

from ldm_jax.course.fast import VARIABLE, size


def test_the_variable_chooses_the_smaller_number(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert size(1000, fast=10) == 1000
    monkeypatch.setenv(VARIABLE, "1")
    assert size(1000, fast=10) == 10
    assert VARIABLE in size.__doc__
