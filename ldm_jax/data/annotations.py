"""Files of annotations: which image each entry belongs to, and entries that are left out."""

import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection

from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.text_files import read_text


def read_json(path: epath.Path):
    """The content of a JSON file. UserError for malformed JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error


class LeftOut:
    """Counts the entries of a file that are left out, and remembers the first."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self.first = ""

    def __len__(self) -> int:
        return self._reasons.total()

    def add(self, entry: str, reason: str) -> None:
        """entry: what a user finds it by, such as 'annotation 5'."""
        self.first = self.first or f"{entry}: {reason}"
        self._reasons[reason] += 1

    def summary(self, total: int, what: str) -> str:
        """'3 of 10 boxes in a.json are left out: 2 x no bbox, 1 x a crowd; the first is ...'.

        what: of what they are `total`, such as 'boxes in a.json'. '' where none is left out.
        """
        if not self._reasons:
            return ""
        reasons = ", ".join(f"{n} x {reason}" for reason, n in self._reasons.most_common(5))
        return f"{len(self)} of {total} {what} are left out: {reasons}; the first is {self.first}"


def stem(name: str) -> str:
    """The name of a file without its extension, with its folder."""
    return posixpath.splitext(name)[0]


def plain_name(name: str) -> str:
    """A path in one form: NFC as most systems write it (macOS: NFD), '/' between folders."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def plain_id(value) -> int | str:
    """The number of an image or class in a file of annotations: 5 for 5, 5.0 and '5'."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return int(value) if str(value).isdecimal() else str(value)


def match_names(names: Collection[str], keys: Collection[str], path) -> dict[str, str]:
    """Matches the names of images with the keys of a file of annotations: {name: key}.

    Names are relative to the folder of images; a key may have fewer or more parent folders. A key
    matches the name that equals it, or else a name that ends with it ('a.jpg' and 'train/a.jpg')
    or that it ends with ('val2017/a.jpg' and 'a.jpg'), all in the form of `plain_name`. Names
    without a key are missing.
    path: where the keys are from, for the UserError when none matches, or one matches two names.
    """
    found = {name: name for name in names if name in keys}
    free = {plain_name(key): key for key in keys if key not in found}
    longer: dict[str, list[str]] = {}
    for key in free:
        for end in _ends(key):
            longer.setdefault(end, []).append(key)
    names_of: dict[str, str] = {}
    for name in names:
        if name in found:
            continue
        plain = plain_name(name)
        fits = [end for end in (plain, *_ends(plain)) if end in free][:1]
        fits = fits or sorted(longer.get(plain, []))
        if len(fits) > 1:
            raise UserError(f"{path}: {fits[0]!r} and {fits[1]!r} could both be {name!r}")
        for key in fits:
            if other := names_of.get(key):
                raise UserError(f"{path}: {key!r} could be {other!r} or {name!r}; name its folder")
            names_of[key] = name
            found[name] = free[key]
    if not found:
        there, here = min(keys, default="nothing"), min(names, default="none")
        raise UserError(f"{path} names none of the images: there {there!r}, here {here!r}")
    return found


def _ends(path: str) -> list[str]:
    """The path without its first folders: 'a/b/c' -> ['b/c', 'c']."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]
