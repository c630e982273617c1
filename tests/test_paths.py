"""Paths as people write them, and whether something can be written there."""

import os

import pytest
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.paths import changed_at, check_output, check_writable, user_path


@pytest.mark.parametrize("path", ["hdfs://a/b", "file:///a", "https://a.b/c", "zebra://x"])
def test_a_kind_of_path_that_is_not_known_is_refused(path):
    with pytest.raises(UserError, match="not known.*gs://BUCKET"):
        user_path(path)


def test_a_tilde_without_a_home_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "~")  # as where the user has none
    with pytest.raises(UserError, match="no home folder"):
        user_path("~/runs")
    assert str(user_path("~zebra/x")) == "~zebra/x" and str(user_path("a~")) == "a~"


def test_a_file_where_a_folder_is_to_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/a", "file/a/b"):
        with pytest.raises(UserError, match="file is not a folder"):
            check_writable(tmp_path / place)
    check_writable(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_written_is_tried_before_the_work(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="a.png is a folder; it is to be a file"):
        check_output(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot be written to"):
        check_output("/proc/x.png")
    (tmp_path / "images").write_text("")
    with pytest.raises(UserError, match="images is not a folder"):
        check_output(tmp_path / "images")
    check_output(tmp_path / "new" / "b.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "images"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs chown")
def test_a_file_whose_owner_has_no_name_has_a_time(tmp_path):
    file = epath.Path(tmp_path / "file")
    file.write_text("x")
    os.chown(file, 54321, 54321)
    assert changed_at(file) == int(os.stat(file).st_mtime)
