"""Docstrings as reStructuredText.

They are written as plain text, as `help()` shows them: paragraphs, lists, `code`, and Google's
sections. What else reStructuredText would take for markup, such as |x| or *args, is text, so that a
docstring does not break the build.
"""

import re
import textwrap

SECTIONS = ("Args", "Returns", "Yields", "Raises")
HEADER = re.compile(rf"({'|'.join(SECTIONS)}):")
BULLET = re.compile(r"- (?=\S)")
NAME = re.compile(r"(\*{0,2}[A-Za-z_][\w.-]*(?:, [\w.-]+)*): (?=\S)")
ALIGNED = re.compile(r"[^\s.] {2,}\S")


def inline(text: str) -> str:
    """Text on one line: code between backticks, the rest without markup."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = rf"\ ``{part.strip()}``\ "
        else:
            parts[i] = re.sub(r"([\\*|`])|_(?!\w)", r"\\\g<0>", part)
    return "".join(parts)


def indented(lines: list[str], first: str = "   ") -> list[str]:
    return [(first if i == 0 else " " * len(first)) + line for i, line in enumerate(lines)]


def literal(lines: list[str]) -> list[str]:
    return ["::", "", *indented(textwrap.dedent("\n".join(lines)).splitlines()), ""]


def items(lines: list[str], in_section: bool) -> list[str]:
    """A list: an item begins where a line starts with a bullet, or with a name and a colon."""
    groups = []
    for line in lines:
        starts = BULLET.match(line) or NAME.match(line)
        groups.append([line]) if starts else groups[-1].append(line)
    found = []
    for first, *rest in groups:
        if named := NAME.match(first):
            head = f"**{inline(named[1])}**: " if in_section else f"{inline(named[1])}: "
            first = first[named.end() :]
        else:
            head, first = "", first[2:]
        rest = textwrap.dedent("\n".join(rest)).splitlines()
        inner = next((i for i, line in enumerate(rest) if BULLET.match(line)), len(rest))
        found += indented([head + inline(" ".join([first, *rest[:inner]]))], "* ")
        if rest[inner:]:
            found += ["", *indented(items(rest[inner:], False), "  ")]
    return [*found, ""]


def paragraph(lines: list[str], in_section: bool) -> list[str]:
    if any(ALIGNED.search(line) for line in lines):
        return literal(lines)
    bullets = [i for i, line in enumerate(lines) if BULLET.match(line)]
    names = [i for i, line in enumerate(lines) if NAME.match(line)]
    # A single name and colon is the beginning of a sentence
    listed = sorted(bullets + (names if in_section or bullets or len(names) > 1 else []))
    start = listed[0] if listed else len(lines)
    text = [inline(" ".join(lines[:start])), ""] if start else []
    return text + (items(lines[start:], in_section) if listed else [])


def blocks(lines: list[str]) -> list[list[str]]:
    """Lines between empty lines; the header of a section begins another block."""
    found = [[]]
    for line in lines:
        if not line.strip() or HEADER.fullmatch(line):
            found.append([])
        if line.strip():
            found[-1].append(line)
    return [block for block in found if block]


def as_rst(lines: list[str], in_section: bool = False) -> list[str]:
    """The lines of a docstring, or of the inside of a section, as reStructuredText."""
    found = []
    for block in blocks(textwrap.dedent("\n".join(lines)).splitlines()):
        if header := HEADER.fullmatch(block[0]):
            found += [f":{header[1]}:", *indented(as_rst(block[1:], True))]
        elif all(line.startswith(" ") for line in block):
            found += literal(block)
        else:
            found += paragraph(block, in_section)
    return found
