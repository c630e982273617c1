"""Numbers are finite and possible: what is out of bounds is said before it is used."""

import dataclasses
import typing

import pytest

from ldm_jax.bounds import Bounds, Finite, NonNegative, PositiveInt, Seed, violations
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.experiments.config import Experiment


@dataclasses.dataclass(frozen=True)
class Numbers:
    steps: PositiveInt = 1
    scale: Finite = 0.0
    rate: NonNegative = 0.0
    seed: Seed = 0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 10**30}, "--steps is 1" + 30 * "0" + "; it must be at most 2147483647"),
        ({"steps": 10**400}, "it must be at most 2147483647"),
        ({"steps": -(10**400)}, "it must be at least 1"),
        ({"scale": float("nan")}, "--scale is nan; it must be a finite number"),
        ({"scale": float("-inf")}, "--scale is -inf; it must be a finite number"),
        ({"scale": 1e39}, "--scale is 1e+39; it must be at most 3.4028234e+38"),
        ({"scale": -1e39}, "--scale is -1e+39; it must be at least -3.4028234e+38"),
        ({"rate": 1e39}, "--rate is 1e+39; it must be at most 3.4028234e+38"),
        ({"rate": -1.0}, "--rate is -1.0; it must be at least 0"),
        ({"seed": 2**32}, "--seed is 4294967296; it must be less than 4294967296"),
    ],
)
def test_a_number_that_cannot_be_is_refused(values, message):
    [wrong] = violations(Numbers(**values))
    assert message in wrong


def test_what_can_be_is_taken():
    assert not list(violations(Numbers(2**31 - 1, 3.4e38, 1e-30, 2**32 - 1)))


def numbers(kind, path=""):
    """(path, annotation) of every number in nested configurations."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        inside = [hints[field.name]]
        for part in inside:
            inside.extend(typing.get_args(part) if typing.get_origin(part) else ())
        for nested in (part for part in inside if dataclasses.is_dataclass(part)):
            if isinstance(nested, type):
                yield from numbers(nested, f"{path}{field.name}.")
        if {int, float} & {part for part in inside if isinstance(part, type)}:
            yield f"{path}{field.name}", inside


@pytest.mark.parametrize("kind", [Experiment, SampleCommand])
def test_every_number_of_a_configuration_has_bounds(kind):
    found = dict(numbers(kind))
    assert len(found) > 20
    without = [
        path for path, parts in found.items() if not any(isinstance(p, Bounds) for p in parts)
    ]
    assert [path for path in without if not path.startswith("hosts.")] == []  # checked by joining
