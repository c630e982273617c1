"""Which folders of images divide training from held-out images, and which are classes."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from ldm_jax.errors import UserError

# train, Valid, train2017, training_set, test-images, trainA; seg_train and DIV2K_valid_HR, which
# are splits where all other words are the same
_NAME = re.compile(
    r"(?:(?P<prefix>.+)[-_ ])?"
    r"(?:(?P<train>train|training)"
    r"|(?P<validation>val|valid|validate|validation|dev|eval|evaluation|h[eo]ld[-_ ]?out)"
    r"|(?P<test>test|testing))"
    r"(?:[-_ ]?(?:\d+|[ab]|set|split|data|images|imgs)|[-_ ](?P<suffix>.+))?",
    re.IGNORECASE,
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
    (or else like `test`), in any case and with the same other words, are the split; all images in
    other folders are not used. Without both of them the folders are classes.
    UserError for folders that are called like splits, but do not say which images are to train on.
    """
    base, remarks = "", []
    while only := _only_folder(images, base):
        if _kind(only) in (("", "validation"), ("", "test")):
            raise UserError(
                f"all images of {root} are in {base}{only}, which by its name is held out; to "
                f"train on them, give --data.path {root}/{base}{only}"
            )
        if _kind(only) == ("", "train"):
            remarks.append(f"all images are in {base}{only}: a part of them is held out")
        base += f"{only}/"
    folders = sorted({_first_folder(name, base) for name in images} - {""})
    if pair := _pair(folders, root):
        train, held_out = pair
        tops = {"train": _top(images, base, train), "validation": _top(images, base, held_out)}
        if outside := [name for name in images if not name.startswith(tuple(tops.values()))]:
            others = ", ".join(sorted({_first_folder(name, base) or name for name in outside})[:3])
            remarks.append(f"{len(outside)} images in neither split are not used, in {others}")
    else:
        tops = {"train": base, "validation": base}
        named = [folder for folder in folders if _kind(folder)[0] == ""]
        is_flat = any(not _first_folder(name, base) for name in images)
        others = {_kind(folder)[0] for folder in folders}  # words; one None: a name of no split
        if len(folders) > 1 and len(others) == 1 and None not in others and not is_flat:
            raise UserError(
                f"the folders of {root} are called like splits ({', '.join(folders)}), but not "
                "one for training and one held out, such as train and val: rename them, or give "
                "the folder to train on as --data.path"
            )
        if named:
            remarks.append(f"{', '.join(named)}: a class, as there is no split without another")
        inner = {name.removeprefix(base).split("/")[1] for name in images if not is_flat}
        if within := sorted(name for name in inner if _kind(name)[0] == ""):
            remarks.append(f"splits within classes are not read as splits: {', '.join(within)}")
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
    seen, judged = ({class_of[n] for n in images if n.startswith(top)} for top in tops.values())
    if unseen := sorted(judged - seen - {""}):
        remarks.append(f"classes without an image to train on: {', '.join(unseen)}")
    return Layout(tops, class_of, tuple(remarks))


def _classes(images: Collection[str], tops: Collection[str]) -> dict[str, str]:
    """The class folder of each image within its top; '' for one that lies in none.

    A folder that holds all of them, as in train/images and val/images, is none.
    """
    rest = {n: n.removeprefix(top) for top in tops for n in images if n.startswith(top)}
    while only := _only_folder(rest.values()):
        rest = {name: short.removeprefix(f"{only}/") for name, short in rest.items()}
    return {name: _first_folder(short) for name, short in rest.items()}


def _kind(folder: str) -> tuple[str, str] | tuple[None, None]:
    """('', 'train') for train, ('seg', 'test') for seg_test; Nones for another name.

    ('div2k hr', 'validation') for DIV2K_valid_HR: the other words, in lower case.
    """
    if not (match := _NAME.fullmatch(folder)):
        return None, None
    kind = next(kind for kind in ("train", "validation", "test") if match[kind])
    return " ".join(filter(None, (match["prefix"], match["suffix"]))).lower(), kind


def _pair(folders: Collection[str], root: object) -> tuple[str, str] | None:
    """The folders of training and of held-out images; None if there are not both."""
    by_words: dict[str, dict[str, list[str]]] = {}
    for folder in folders:
        words, kind = _kind(folder)
        if kind:
            by_words.setdefault(words, {}).setdefault(kind, []).append(folder)
    pairs = {
        words: (kinds["train"], kinds.get("validation") or kinds["test"])
        for words, kinds in by_words.items()
        if "train" in kinds and len(kinds) > 1
    }
    both = [pairs[""]] if "" in pairs else list(pairs.values())  # train before train_masks
    train = [folder for folders, _ in both for folder in folders]
    held_out = [folder for _, folders in both for folder in folders]
    for several in (train, held_out):
        if len(several) > 1:
            raise UserError(
                f"{several[0]} and {several[1]} in {root} could both be the same split: rename "
                "one or move it elsewhere"
            )
    return (train[0], held_out[0]) if both else None


def _only_folder(names: Collection[str], top: str = "") -> str:
    """The one folder in `top` that holds all images there; '' if there is none."""
    firsts = {_first_folder(name, top) for name in names}
    return firsts.pop() if len(firsts) == 1 else ""


def _first_folder(name: str, top: str = "") -> str:
    """'a' for 'a/b/0.png', '' for '0.png'."""
    return name.removeprefix(top).rpartition("/")[0].partition("/")[0]


def _top(images: Collection[str], base: str, folder: str) -> str:
    """The folder of a split: also the inner one of training_set/training_set."""
    top = f"{base}{folder}/"
    inner = _only_folder([name for name in images if name.startswith(top)], top)
    return f"{top}{inner}/" if inner == folder else top
