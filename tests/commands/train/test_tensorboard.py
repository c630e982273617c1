"""`python train.py ... --tensorboard True`, and what is written of a run that goes on."""

import sys

import pytest

from tests.training.test_tensorboard import events, scalars

pytestmark = pytest.mark.slow
pytest.importorskip("tensorboardX")


@pytest.fixture
def words(photographs, tmp_path):
    run = tmp_path / "run"
    return [
        "folder",
        "--data.path",
        photographs / "flat",
        "--stage",
        "autoencoder",
        "--run-dir",
        run,
    ]


def test_metrics_and_previews_are_logged_also_of_a_run_that_goes_on(words, train_tiny, tmp_path):
    words += ["--tensorboard", True, "--autoencoder.progress.preview-every", 2]
    first = train_tiny(*words)
    assert first.code == 0, first.err
    folder = tmp_path / "run" / "tensorboard" / "autoencoder"
    logged = {step for step, name in scalars(folder) if name == "loss"}
    assert logged == {2, 4}
    longer = train_tiny(*words, "--autoencoder.steps", 6)
    assert longer.code == 0, longer.err
    names = {name for step, name in scalars(folder) if step == 6}
    assert {"loss", "images_per_s", "held_out_psnr"} <= names
    assert {step for step, name in scalars(folder) if name == "loss"} == {2, 4, 6}
    shown = [e.step for e in events(folder) for v in e.summary.value if v.HasField("image")]
    assert shown == [2, 4, 6]


def test_without_the_extra_nothing_is_begun(words, train_tiny, tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError('there is none')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [one for one in sys.modules if one.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    error = train_tiny(*words, "--tensorboard", True).error
    assert "--tensorboard True needs tensorboardX" in error and "pip install" in error
    assert not (tmp_path / "run").exists()
