"""A name on a command line: a run directory there, or else a model that comes with the package."""

import pytest

from ldm_jax.errors import UserError
from ldm_jax.model.find import find_run, is_run


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of two shipped models; the working folder is another one."""
    folder = tmp_path / "shipped"
    for name in ("balls-64", "cones-64", "zoo/f4"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_name_is_a_shipped_model(shipped):
    assert find_run("cones-64", shipped).path == shipped / "cones-64"
    assert is_run("cones-64", shipped) and not is_run("cubes-64", shipped)


def test_an_autoencoder_of_the_zoo_has_the_name_of_its_folders(shipped):
    assert find_run("zoo/f4", shipped).path == shipped / "zoo" / "f4"
    assert not is_run("f4", shipped) and not is_run("zoo", shipped)
    with pytest.raises(UserError, match="balls-64, cones-64, zoo/f4; perhaps you meant zoo/f4"):
        find_run("zoo/f8", shipped)


def test_a_run_directory_of_that_name_wins(shipped, tmp_path):
    own = tmp_path / "work" / "cones-64"
    own.mkdir()
    assert find_run("cones-64", shipped).path == shipped / "cones-64"  # some other folder
    (own / "config.json").write_text("{}")
    assert str(find_run("cones-64", shipped).path) == "cones-64"
    assert find_run(str(shipped / "cones-64"), shipped).path == shipped / "cones-64"


@pytest.mark.parametrize("place", ["cones-46", "runs/cones-64", ".", "../shipped"])
def test_what_is_neither_is_said_with_the_shipped_models(place, shipped):
    with pytest.raises(UserError, match="is no run directory.*balls-64, cones-64") as raised:
        find_run(place, shipped)
    assert ("perhaps you meant cones-64" in str(raised.value)) == place.endswith(("-46", "-64"))


def test_an_experiment_is_not_a_model(shipped):
    with pytest.raises(UserError, match="scenes-class is an experiment.* train.py scenes-class"):
        find_run("scenes-class", shipped)


def test_a_part_of_a_pipeline_is_no_run(shipped, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert not is_run(str(tmp_path), shipped)
