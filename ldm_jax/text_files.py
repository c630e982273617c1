"""Text files that people have: their encoding, and their lines."""

from __future__ import annotations

import codecs
import re

from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.paths import user_path

# The longer mark of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: epath.PathLike, option: str = "") -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    option: of the command line, that names the file.
    UserError where it cannot be read or is in another encoding.
    """
    problem = f"{option} {path} cannot be read".lstrip()
    try:
        content = user_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{problem}: {error.strerror or error}") from error
    marks = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if content.startswith(mark))
    try:
        text = content.decode(next(marks, "utf-8"))
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise UserError(f"{problem}: not text in UTF-8 ({reason}); save it as UTF-8") from error
    if "\0" in text:  # UTF-16 without a mark, most often
        raise UserError(f"{problem}: not text in UTF-8 (NUL characters); save it as UTF-8")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text; unlike `str.splitlines`, they end at line feeds or carriage returns."""
    return re.split(r"\r\n|\n|\r", text)
