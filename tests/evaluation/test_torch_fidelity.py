"""Our distances are torch-fidelity's of the same features, to 1e-4."""

import numpy as np
import pytest

from ldm_jax.evaluation.frechet import frechet_distance
from ldm_jax.evaluation.inception_score import inception_score
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.manifold import precision_recall

torch = pytest.importorskip("torch")
pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def features():
    """Real, generated: positive and of unequal variances, as pooled features of a network are."""
    rng = np.random.default_rng(0)
    scales = 0.5 / (1 + np.arange(32))
    mixing = np.eye(32) + 0.1 * rng.random((32, 32))
    real = rng.gamma(2, scales, size=(300, 32)) @ mixing
    generated = rng.gamma(2.5, scales, size=(250, 32)) @ mixing
    return real.astype(np.float32), generated.astype(np.float32)


@pytest.mark.parametrize("num", [250, 20])
def test_frechet_distance(features, num):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, generated = features[0], features[1][:num]  # 20: fewer than features
    # In float64, which theirs is only for features that are
    statistics = [fid_features_to_statistics(torch.tensor(x).double()) for x in (real, generated)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(real=real, generated=generated).distance
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("subset_size", [250, 100])
def test_kid(features, subset_size):
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, generated = (torch.tensor(x) for x in features)
    theirs = kid_features_to_metric(
        real, generated, kid_subsets=20, kid_subset_size=subset_size, rng_seed=7, verbose=False
    )
    ours = kid(
        real=features[0],
        generated=features[1],
        num_subsets=20,
        subset_size=subset_size,
        seed=7,
    )
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours.subset_std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


def test_precision_and_recall(features):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, generated = (torch.tensor(x).double() for x in features)
    # Releases differ in which of the two is the real one; they agree in how the values are found
    theirs = prc_features_to_metric(generated, real, verbose=False)
    ours = precision_recall(real=features[0], generated=features[1])
    assert ours.precision != ours.recall
    assert sorted(ours[:2]) == pytest.approx(sorted([theirs["precision"], theirs["recall"]]))


def test_inception_score():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = np.random.default_rng(1).normal(0, 3, size=(205, 12)).astype(np.float32)
    theirs = isc_features_to_metric(torch.tensor(logits), splits=10, shuffle=True, rng_seed=2020)
    ours = inception_score(logits=logits)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-4)
