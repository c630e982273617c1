"""The exercises of the course: a right answer is right, each common mistake is called by name."""

import importlib
import pkgutil

import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax.course
from ldm_jax.course.exercise import Build, Predict

EXERCISES = {
    f"{module.name}.{name}": exercise
    for module in pkgutil.iter_modules(ldm_jax.course.__path__)
    for name, exercise in vars(importlib.import_module(f"ldm_jax.course.{module.name}")).items()
    if isinstance(exercise, Build | Predict)
}
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
half = Build(
    task="half(x) returns x / 2.",
    right=lambda x: x / 2,
    mistakes={"This is the double.": lambda x: 2 * x},
    told="half",
    cases=[(np.arange(4.0),), (np.ones((2, 3)),)],
)
colour = Predict(
    task="a colour", right="red", mistakes={"No.": "blue"}, told="red", options=("red", "blue")
)
third = Predict(task="a third", right=1 / 3, mistakes={"That is its inverse.": 3}, told="a third")


def test_there_are_exercises():
    assert len(EXERCISES) >= 3


@each_exercise
def test_a_right_answer_is_right(exercise):
    assert exercise(exercise.right).state == "right"
    assert repr(exercise(exercise.right)) == f"Right. {exercise.told}"


@each_exercise
def test_each_mistake_has_its_own_hint(exercise):
    assert exercise.mistakes
    for hint, wrong in exercise.mistakes.items():
        outcome = exercise(wrong)
        assert (outcome.state, outcome.message) == ("wrong", hint)
        assert repr(outcome) == f"Not right yet. {hint}"


@each_exercise
def test_an_answer_that_is_not_there_is_not_done_yet(exercise):
    def unfilled(*arguments): ...

    answers = [..., None, unfilled] if isinstance(exercise, Build) else [..., None]
    for answer in answers:
        assert repr(exercise(answer)) == f"Not done yet: {exercise.task}"


@each_exercise
@pytest.mark.parametrize(
    "answer",
    ["x", 17, len, lambda *arguments: "x", lambda: 0],
    ids=["a word", "a number", "another function", "a function of anything", "one of nothing"],
)
def test_nonsense_is_wrong_and_raises_nothing(exercise, answer):
    outcome = exercise(answer)
    assert outcome.state == "wrong" and outcome.message


def test_an_answer_may_be_of_jax():
    assert half(lambda x: jnp.asarray(x) / 2).state == "right"
    assert third(jnp.float32(0.3333)).state == "right"


def test_an_answer_that_changes_its_arguments_does_no_harm():
    def in_place(x):
        x /= 2
        return x

    assert [half(in_place).state for _ in range(2)] == ["right", "right"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda x: -x / 2, "returns -1 times what is right"),
        (lambda x: x.sum(), "returns the shape (); it should be (4,)"),
        (lambda x: x / 2 if x.ndim == 1 else x[:, :1], "returns the shape (2, 1)"),
        (lambda x: x / 2 + 1, "is wrong by up to 1."),
        (lambda x: x / missing, "raises NameError: name 'missing' is not defined"),  # noqa: F821
        (lambda x: x / 2 if x.ndim == 1 else None, "returns nothing"),
        (lambda x: [[1, 2], [3]], "raises ValueError"),
    ],
)
def test_an_unknown_mistake_is_described(wrong, said):
    assert said in half(wrong).message


def test_a_prediction_has_a_tolerance_and_says_what_it_expects():
    assert third(0.34).state == "right"
    assert third(0.36).message == "Think again: a third"
    assert third("0.33").message == "The answer is a number, not '0.33'."
    assert third(float("nan")).message == "The answer is a number, not nan."
    assert colour("green").message == "The answer is one of red, blue."
    assert colour(3).message == "The answer is one of red, blue."
