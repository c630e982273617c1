"""What a folder of images holds: their names, splits, classes and captions."""

import posixpath
from dataclasses import dataclass

from etils import epath

from ldm_jax.data.annotations import (
    CAPTIONS,
    captions_beside,
    listed_captions,
    match,
    read_captions,
    visible_files,
)
from ldm_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def given_path(path) -> epath.Path:
    """A path as the user wrote it, with ~ for the home folder."""
    return epath.Path(path).expanduser()


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder, and what it says about them. Names are relative to it, with '/'."""

    names: list[str]  # of this split
    images: list[str]  # of both, so that both number classes, boxes and maps alike
    divided: bool  # into folders for training and validation
    classes: tuple[str, ...]  # () for none
    class_of: dict[str, str]
    captions: dict[str, list[str]]  # {} for none


def index_folder(
    root: epath.Path, split: str, captions: str = "", boxes: str = "", maps: str = ""
) -> FolderIndex:
    """What is in the image folder `root`, of which `split` is wanted.

    captions, boxes, maps: the paths that `FolderSource` got. UserError for a folder that is missing
    or empty, that mixes images and classes, and for captions that make no sense.
    """
    if not root.is_dir():
        raise UserError(f"the image folder {root} does not exist")
    files = visible_files(root)
    if maps:  # which are images too
        here, apart = root.resolve(), given_path(maps).resolve()
        files = {name for name in files if not (here / name).is_relative_to(apart)}
    images = [name for name in sorted(files) if posixpath.splitext(name)[1].lower() in EXTENSIONS]
    if not images:
        raise UserError(f"no image in {root}; looked for {' '.join(EXTENSIONS)}, also in folders")
    folders = {name.partition("/")[0] for name in images if "/" in name}
    held = next((name for name in ("validation", "val", "test") if name in folders), "")
    divided = "train" in folders and held != ""
    tops = {"train": "train/", "validation": f"{held}/"} if divided else {split: ""}
    names = [name for name in images if name.startswith(tops[split])]

    if captions:
        listed = read_captions(given_path(captions))
        found = match(images, listed, captions)
        listed = {name: listed[key] for name, key in found.items()}
    else:
        listed = listed_captions(root, tops[split], files)
    if listed:
        return FolderIndex(names, images, divided, (), {}, listed)
    # Classes are those of both splits, so that both number them alike.
    class_of = {
        name: name.removeprefix(top).rpartition("/")[0].partition("/")[0]
        for top in tops.values()
        for name in images
        if name.startswith(top)
    }
    classes = tuple(sorted(set(class_of.values()) - {""}))
    if flat := [name for name in names if not class_of[name]]:
        if len(flat) < len(names):
            raise UserError(
                f"{root / tops[split]} holds both images and folders of images ({classes[0]}): "
                f"one of the two has to go elsewhere, or a {CAPTIONS} has to name them"
            )
        classes = ()
    # Text files beside the images are captions, unless they are said to be boxes.
    is_boxes = boxes and given_path(boxes).resolve() == root.resolve()
    beside = {} if is_boxes else captions_beside(root, names, files)
    return FolderIndex(names, images, divided, classes, class_of, beside)
