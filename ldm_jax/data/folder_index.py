"""The contents of a folder of images: their names, splits, classes and captions."""

import posixpath
from dataclasses import dataclass

from etils import epath

from ldm_jax.data.annotations import (
    CAPTIONS,
    captions_in_text_files,
    listed_captions,
    match_names,
    read_captions,
    visible_files,
)
from ldm_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def user_path(path) -> epath.Path:
    """A path that a user wrote, with ~ replaced by the home folder."""
    return epath.Path(path).expanduser()


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder, their classes and captions. Names are relative to it, with '/'."""

    names: list[str]  # of this split
    images: list[str]  # of both splits, which must number classes in the same way
    has_splits: bool  # folders for training and validation
    classes: tuple[str, ...]  # () for none
    class_of: dict[str, str]
    captions: dict[str, list[str]]  # {} for none


def index_folder(
    root: epath.Path, split: str, captions: str = "", boxes: str = "", maps: str = ""
) -> FolderIndex:
    """Lists the images of one split in the folder `root`.

    captions, boxes, maps: those of `FolderConfig`. UserError for a folder that is missing or empty
    or mixes images and class folders, and for malformed captions.
    """
    if not root.is_dir():
        raise UserError(f"the image folder {root} does not exist")
    files = visible_files(root)
    if maps:  # which are images too
        here, apart = root.resolve(), user_path(maps).resolve()
        files = {name for name in files if not (here / name).is_relative_to(apart)}
    images = [name for name in sorted(files) if posixpath.splitext(name)[1].lower() in EXTENSIONS]
    if not images:
        raise UserError(f"no image in {root}; looked for {' '.join(EXTENSIONS)}, also in folders")
    folders = {name.partition("/")[0] for name in images if "/" in name}
    held = next((name for name in ("validation", "val", "test") if name in folders), "")
    has_splits = "train" in folders and held != ""
    tops = {"train": "train/", "validation": f"{held}/"} if has_splits else {split: ""}
    names = [name for name in images if name.startswith(tops[split])]

    if captions:
        listed = read_captions(user_path(captions))
        found = match_names(images, listed, captions)
        listed = {name: listed[key] for name, key in found.items()}
    else:
        listed = listed_captions(root, tops[split], files)
    if listed:
        return FolderIndex(names, images, has_splits, (), {}, listed)
    # Classes are those of both splits, so that both number them in the same way.
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
                f"move one of the two elsewhere, or list the images in a {CAPTIONS}"
            )
        classes = ()
    # Text files beside the images are captions, unless they are the boxes.
    is_boxes = boxes and user_path(boxes).resolve() == root.resolve()
    beside = {} if is_boxes else captions_in_text_files(root, names, files)
    return FolderIndex(names, images, has_splits, classes, class_of, beside)
