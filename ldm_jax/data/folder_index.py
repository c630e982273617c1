"""The contents of a folder of images: their names, splits, classes and captions."""

import logging
import posixpath
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from etils import epath

from ldm_jax.data.box_files import CLASS_LISTS
from ldm_jax.data.captions import CAPTIONS, find_captions
from ldm_jax.data.embeddings import embedding_files
from ldm_jax.data.listing import visible_files
from ldm_jax.data.splits import Layout, layout_of
from ldm_jax.errors import UserError
from ldm_jax.paths import user_path

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".gif"),
    *(".tif", ".tiff"),
)
_TEXTS = (".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder, their classes and captions. Names are relative to it, with '/'."""

    names: list[str]  # of this split
    images: list[str]  # of both splits, which must number classes in the same way
    has_splits: bool  # folders for training and validation
    classes: tuple[str, ...]  # () for none
    class_of: dict[str, str]
    captions: dict[str, list[str]]  # {} for none
    embeddings: dict[str, str]  # their files, where they are asked for


def index_folder(
    root: epath.Path,
    split: str,
    captions: str = "",
    boxes: str = "",
    maps: str = "",
    embeddings: bool = False,
) -> FolderIndex:
    """Lists the images of one split in the folder `root`; for 'train', logs what is not used.

    captions, boxes, maps: those of `FolderConfig`. embeddings: whether to look for them.
    UserError for a folder that is missing or empty or mixes images and class folders, and for
    malformed captions.
    """
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise UserError(f"the image folder {root} {problem}")
    files = visible_files(root)
    if maps:  # which are images too
        files -= _within(files, root, maps)
    images = [name for name in sorted(files) if _extension(name) in EXTENSIONS]
    if not images:
        there = f"; there are {_by_extension(files)}" if files else ""
        there += f"; all in {maps} are maps" if maps else ""
        raise UserError(
            f"no image in {root}; looked for {' '.join(EXTENSIONS)}, also in folders{there}"
        )
    if wrong := [name for name in images if not _is_unicode(name)]:
        raise UserError(f"the name of {wrong[0]!r} in {root} is not in UTF-8: rename it")
    layout = layout_of(images, root)
    remarks = list(layout.remarks)
    names = [name for name in images if name.startswith(layout.tops[split])]

    others, beside = files - set(images), embedding_files(images, files) if embeddings else {}
    texts = {name for name in others if _extension(name) in _TEXTS}
    if skipped := others - texts - set(beside.values()):
        remarks.append(f"not read: {_by_extension(skipped)}; images are {' '.join(EXTENSIONS)}")
    texts -= _within(texts, root, captions)
    if boxes:
        texts -= {n for n in _within(texts, root, boxes) if _extension(n) in (".txt", ".json")}
        texts -= {name for name in texts if posixpath.basename(name) in CLASS_LISTS}

    found = find_captions(root, images, texts, user_path(captions) if captions else None)
    remarks += found.remarks
    if unused := sorted(texts - found.files):
        more = ", ..." if len(unused) > 3 else ""
        remarks.append(f"text files not used: {len(unused)} ({', '.join(unused[:3])}{more})")
    classes = () if found.is_list else _classes(root, layout)
    if split == "train":
        for remark in remarks:
            log.warning("%s: %s", root, remark)
    return FolderIndex(
        names, images, layout.has_splits, classes, layout.class_of, found.texts, beside
    )


def _classes(root: epath.Path, layout: Layout) -> tuple[str, ...]:
    """Those of both splits, so that both number them in the same way; () for a flat folder."""
    classes = tuple(sorted(set(layout.class_of.values()) - {""}))
    for top in layout.tops.values():  # that of training first
        is_flat = {not name for image, name in layout.class_of.items() if image.startswith(top)}
        if is_flat == {True}:
            return ()
        if len(is_flat) == 2:
            raise UserError(
                f"{root / top} holds both images and folders of images ({classes[0]}): move one "
                f"of the two elsewhere, or list the images in a {CAPTIONS}"
            )
    return classes


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _is_unicode(name: str) -> bool:
    """Whether the file system's bytes are text. Others can be stored in no configuration."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _by_extension(names: Collection[str]) -> str:
    """'12 .heic, 1 .md'"""
    counts = Counter(sorted(_extension(name) or "without extension" for name in names))
    return ", ".join(f"{n} {extension}" for extension, n in counts.most_common())


def _within(names: Collection[str], root: epath.Path, path: str) -> set[str]:
    """Those names in `root` that are the file `path`, or lie in the folder; none for ''."""
    if not path:
        return set()
    here, apart = root.resolve(), user_path(path).resolve()
    return {name for name in names if (here / name).is_relative_to(apart)}
