"""The Inception Score against closed forms."""

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.evaluation.inception_score import inception_score


def test_sure_and_balanced_is_the_number_of_classes_sorted_or_not():
    with np.errstate(divide="ignore"):
        logits = np.log(np.repeat(np.eye(5), 200, axis=0))  # 0 and -inf, sorted by class
    score = inception_score(logits=logits, splits=2)
    assert score.mean == pytest.approx(5, rel=0.01)
    assert inception_score(logits=logits, splits=1).mean == pytest.approx(5, rel=1e-12)


def test_all_images_alike_is_one():
    assert inception_score(logits=np.zeros((20, 4))).mean == pytest.approx(1, rel=1e-12)
    one_class = np.tile([9.0, 0.0, 0.0], (20, 1))
    assert inception_score(logits=one_class).mean == pytest.approx(1, rel=1e-12)


def test_two_kinds_of_images_in_closed_form():
    # p = (0.9, 0.1) and (0.1, 0.9): KL to (0.5, 0.5) is log 2 minus the entropy of 0.9
    p = np.tile([[0.9, 0.1], [0.1, 0.9]], (10, 1))
    expected = 2 * 0.9**0.9 * 0.1**0.1
    assert inception_score(logits=np.log(p), splits=1).mean == pytest.approx(expected, rel=1e-12)


def test_it_agrees_with_its_definition():
    logits = np.random.default_rng(0).normal(0, 3, size=(12, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1)))
    # A constant added to the logits of an image changes no probability
    score = inception_score(logits=logits + 500, splits=1)
    assert score.mean == pytest.approx(expected, rel=1e-10)
    assert (score.std, score.num, score.splits) == (0, 12, 1)


def test_few_images_are_said():
    logits = np.zeros((40, 4))
    assert inception_score(logits=logits).caution == ""
    assert "3 images a split are few" in inception_score(logits=logits[:39]).caution


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((9, 4)), "at least 10 images, got 9"),
        (np.zeros((0, 4)), "at least 10 images, got 0"),
        (np.zeros(20), r"the shape \(20,\)"),
        (np.zeros((20, 0)), r"the shape \(20, 0\)"),
        (np.full((20, 4), np.nan), "20 of 20 images have logits that are not finite"),
        (np.full((20, 4), -np.inf), "not finite; the first is row 0"),
        (np.full((20, 4), np.inf), "not finite"),
        ([[1.0], [1.0, 2.0]], "not an array of real numbers"),
        (np.full((20, 4), "a"), "not an array of real numbers"),
        (np.zeros((20, 4), complex), "not an array of real numbers"),
    ],
)
def test_bad_logits_are_refused_in_one_line(logits, message):
    with pytest.raises(UserError, match=message):
        inception_score(logits=logits)


def test_no_split_is_refused():
    with pytest.raises(UserError, match="splits is 0; it must be at least 1"):
        inception_score(logits=np.zeros((20, 4)), splits=0)
