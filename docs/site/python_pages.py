"""Packages as pages: each `__init__.py` of ldm_jax is a page about the modules beside it."""

import ast
import contextlib
import dataclasses
import inspect
import typing
from pathlib import Path

from docstrings import as_rst, inline
from flax import nnx
from sphinx.parsers import RSTParser
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import inspect as sphinx_inspect

PACKAGE = "ldm_jax"


def dotted(path: Path) -> str:
    """The name of the module in a file, given relative to the root of the repository."""
    return ".".join(part for part in path.with_suffix("").parts if part != "__init__")


def summary(file: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return inline(text.split("\n\n")[0])


def page(file: Path, root: Path) -> list[str]:
    """The page of a package, given its `__init__.py`, as reStructuredText.

    The rooms, which are the packages of ldm_jax itself, have their places in `navigation`.
    """
    folder, name = file.parent, dotted(file.relative_to(root))
    modules = sorted(other for other in folder.glob("*.py") if other != file)
    packages = [] if name == PACKAGE else sorted(folder.glob("*/__init__.py"))
    names = {other: dotted(other.relative_to(root)) for other in (*modules, *packages)}
    inner = [str(p.relative_to(folder).with_suffix("")) for p in packages]
    inner += sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.glob("*/*.md"))

    lines = [folder.name, "=" * len(folder.name), "", f".. automodule:: {name}", ""]
    lines += [f"- :py:mod:`~{names[f]}`: {summary(f)}" for f in (*modules, *packages)]
    if inner:
        lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {entry}" for entry in inner)]
    for other in modules:
        path = other.relative_to(root)
        lines += ["", other.stem, "-" * len(other.stem), "", f":download:`{path} <{other.name}>`"]
        lines += ["", f".. automodule:: {names[other]}"]
    return lines


class PackagePage(RSTParser):
    """Parses an `__init__.py` as reStructuredText that is made from its folder."""

    supported = ("python",)

    def parse(self, inputstring, document):
        root, file = Path(document.settings.env.srcdir), Path(document["source"])
        super().parse("\n".join(page(file, root)), document)


def docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text; what Python says of a field of a tuple is no docstring."""
    lines[:] = [] if "".join(lines).startswith("Alias for field number") else as_rst(lines)


def plain_types(app, obj, bound_method=False):
    """Makes the Annotated types of a class or function plain: bounds are for the command line."""
    with contextlib.suppress(AttributeError, NameError):  # it has none; they cannot be imported
        hints, own = typing.get_type_hints(obj), getattr(obj, "__annotations__", {})
        if inspect.isfunction(obj) or "__annotations__" in vars(obj):
            obj.__annotations__ = {name: hints[name] for name in own}


def skipped(app, what, name, obj, skip, options):
    """What is not shown: what is imported, or has no docstring and is no field of a class."""
    code = inspect.isroutine(obj) or inspect.isclass(obj) or isinstance(obj, property)
    if what == "module" and code and not str(obj.__module__).startswith(PACKAGE):
        return True
    if what == "module" and inspect.isclass(obj):
        plain_types(app, obj)
    if what == "module" and not code:
        module = ModuleAnalyzer.for_module(app.env.current_document.autodoc_module)
        return ("", name) not in module.find_attr_docs() or None
    return (code and not obj.__doc__) or None


def signature(app, what, name, obj, options, arguments, returned):
    """Of a dataclass none, as its fields stand below; of a Flax module that of `__init__`."""
    if what != "class":
        return None
    if dataclasses.is_dataclass(obj) or hasattr(obj, "_fields"):
        return "", returned
    if isinstance(obj, type(nnx.Module)):
        found = sphinx_inspect.signature(obj.__init__, bound_method=True)
        return sphinx_inspect.stringify_signature(found, unqualified_typehints=True), returned


def setup(app):
    app.add_source_suffix(".py", "python")
    app.add_source_parser(PackagePage)
    app.connect("autodoc-before-process-signature", plain_types)
    app.connect("autodoc-skip-member", skipped)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
