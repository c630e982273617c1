"""Which folders of images divide training from held-out images, and which are classes."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from ldm_jax.errors import UserError

_END = r"[-_ ]?(\d+|set|split|data|images|imgs)?"  # train2017, training_set, test-images
_TRAIN, _VALIDATION, _TEST = (
    re.compile(f"({words}){_END}", re.IGNORECASE)
    for words in ("train|training", "val|valid|validation|dev", "test|testing")
)


@dataclass(frozen=True)
class Layout:
    """How the images of a folder are divided."""

    tops: dict[str, str]  # the folder of each split, 'a/b/'; one for both if they are not divided
    class_of: dict[str, str]  # by image of either split; '' for one that lies in no folder
    remarks: tuple[str, ...]  # what may be other than the user thinks

    @property
    def has_splits(self) -> bool:
        """Whether folders divide training from held-out images."""
        return len(set(self.tops.values())) > 1


def layout_of(images: Collection[str], root: object) -> Layout:
    """Finds splits and classes in the names of all images, relative to the folder `root`.

    A folder that holds all images is neither. Of the others, one like `train` and one like `val`
    (or else like `test`), in any case, are the split; all images in other folders are not used.
    Without both of them the folders are classes.
    UserError for folders that are called like splits, but do not say which images are to train on.
    """
    base, remarks = "", []
    while only := _only_folder(images, base):
        if _is_held_out(only):
            raise UserError(
                f"all images of {root} are in {base}{only}, which by its name is held out; to "
                f"train on them, give --data.path {root}/{base}{only}"
            )
        if _TRAIN.fullmatch(only):
            remarks.append(f"all images are in {base}{only}: a part of them is held out")
        base += f"{only}/"
    inner = [name.removeprefix(base) for name in images]
    folders = sorted({_first_folder(name) for name in inner} - {""})
    train, validation, test = (
        [name for name in folders if kind.fullmatch(name)] for kind in (_TRAIN, _VALIDATION, _TEST)
    )
    held_out = validation or test
    tops = {"train": base, "validation": base}
    if train and held_out:
        tops = {
            "train": _top(images, base, train, root),
            "validation": _top(images, base, held_out, root),
        }
        outside = [name for name in images if not name.startswith(tuple(tops.values()))]
        if outside:
            others = ", ".join(sorted({_first_folder(name, base) or name for name in outside})[:3])
            remarks.append(f"{len(outside)} images in neither split are not used, in {others}")
    elif named := train + held_out:
        if len(folders) == len(train + validation + test) and all("/" in name for name in inner):
            raise UserError(
                f"the folders of {root} are called like splits ({', '.join(folders)}), but not "
                "one for training and one held out, such as train and val: rename them, or give "
                "the folder to train on as --data.path"
            )
        remarks.append(f"{', '.join(named)}: a class, as there is no split without another")
    class_of = _classes(images, tops.values())
    labelled = [
        any(class_of[name] for name in images if name.startswith(top)) for top in tops.values()
    ]
    if labelled == [True, False]:
        remarks.append(
            f"the images in {tops['validation']} are in no class folders and not used; a part of "
            "the others is held out"
        )
        tops = dict.fromkeys(tops, tops["train"])
        class_of = _classes(images, tops.values())
    return Layout(tops, class_of, tuple(remarks))


def _classes(images: Collection[str], tops: Collection[str]) -> dict[str, str]:
    """The class folder of each image within its top; '' for one that lies in none.

    A folder that holds all of them, as in train/images and val/images, is none.
    """
    rest = {n: n.removeprefix(top) for top in tops for n in images if n.startswith(top)}
    while only := _only_folder(rest.values()):
        rest = {name: short.removeprefix(f"{only}/") for name, short in rest.items()}
    return {name: _first_folder(short) for name, short in rest.items()}


def _is_held_out(folder: str) -> bool:
    return bool(_VALIDATION.fullmatch(folder) or _TEST.fullmatch(folder))


def _only_folder(names: Collection[str], top: str = "") -> str:
    """The one folder in `top` that holds all images there; '' if there is none."""
    firsts = {_first_folder(name, top) for name in names}
    return firsts.pop() if len(firsts) == 1 else ""


def _first_folder(name: str, top: str = "") -> str:
    """'a' for 'a/b/0.png', '' for '0.png'."""
    return name.removeprefix(top).rpartition("/")[0].partition("/")[0]


def _top(images: Collection[str], base: str, folders: list[str], root: object) -> str:
    """The folder of a split: also the inner one of training_set/training_set."""
    if len(folders) > 1:
        raise UserError(
            f"{folders[0]} and {folders[1]} in {root} could both be the same split: rename one or "
            "move it elsewhere"
        )
    top = f"{base}{folders[0]}/"
    inner = _only_folder([name for name in images if name.startswith(top)], top)
    return f"{top}{inner}/" if inner == folders[0] else top
