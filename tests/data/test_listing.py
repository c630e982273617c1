"""The files below a folder that are a user's own."""

import pytest
from etils import epath

from ldm_jax.data.listing import visible_files


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return epath.Path(folder)


def test_all_files_are_listed_with_their_folders(tmp_path):
    names = {"a.png", "b/c.txt", "b/d/e.JPG", "no_extension"}
    assert visible_files(touched(tmp_path, *names)) == names


CLUTTER = [
    *("@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "cat/@eaDir/b.jpg", "#recycle/c.png"),
    *("__MACOSX/cat/e.png", "__MACOSX/cat/._a.png", "cat/._a.png", ".DS_Store", ".hidden/f.png"),
    *("$RECYCLE.BIN/g.png", "System Volume Information/h.png", "lost+found/i.png"),
    *(".ipynb_checkpoints/a-checkpoint.png", "@Recycle/j.png"),
]  # fmt: skip


@pytest.mark.parametrize("clutter", CLUTTER)
def test_hidden_files_and_clutter_of_systems_are_not(tmp_path, clutter):
    assert visible_files(touched(tmp_path, "cat/a.png", "@home.png", clutter)) == {
        "cat/a.png",
        "@home.png",
    }


def test_links_are_followed_unless_they_lead_back(tmp_path):
    touched(tmp_path, "set/cat/a.png", "elsewhere/b.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "set" / "loop.png").symlink_to("loop.png")
    for name, target in (("self", "."), ("up", ".."), ("cat/again", ".."), ("cat/here", ".")):
        (tmp_path / "set" / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set", target_is_directory=True)
    root = epath.Path(tmp_path / "set")
    assert visible_files(root) == {"cat/a.png", "dog/b.png", "c.png", "loop.png"}
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert visible_files(epath.Path(tmp_path / "link")) == visible_files(root)
