"""Links that MyST does not make: to Python files, to folders, and from names in the text.

The repository's web view shows the file or the folder. The site has for a module of the package its
section, for another Python file the file itself, and for a folder its first page. A name such as
`ldm_jax.layers.ResBlock` in the text of a page leads to what is said of it.
"""

import re
from pathlib import Path

from docutils import nodes
from navigation import sections
from python_pages import PACKAGE, dotted
from sphinx.addnodes import download_reference, pending_xref
from sphinx.transforms import SphinxTransform

NAME = re.compile(rf"{PACKAGE}(\.\w+)+")


def first_page(folder: Path) -> str | None:
    """The first page in a folder, which is given relative to the root, by the order of sections."""
    pages = [page for of_section in sections().values() for page in of_section]
    inside = [page for page in pages if folder in Path(page).parents]
    return min(inside, key=lambda page: len(Path(page).parts), default=None)


def in_a_link(node) -> bool:
    """Whether a node of a page stands in the text of a link."""
    while (node := node.parent) is not None:
        if isinstance(node, (pending_xref, download_reference, nodes.reference)):
            return True
    return False


class Links(SphinxTransform):
    """Runs after a page was parsed, when its links are still names."""

    default_priority = 100

    def apply(self, **kwargs):
        for link in list(self.document.findall(pending_xref)):
            if link["reftype"] == "myst" and (new := self.replacement(link)) is not None:
                new += link.children
                link.replace_self(new)
        for code in list(self.document.findall(nodes.literal)):
            if NAME.fullmatch(code.astext()) and not in_a_link(code):
                to = {"refdomain": "py", "reftype": "obj", "reftarget": code.astext()}
                code.replace_self(pending_xref("", code.deepcopy(), refdoc=self.env.docname, **to))

    def replacement(self, link):
        """Another link, or None where MyST finds the page or anchor."""
        env, root = self.env, Path(self.env.srcdir)
        here = {"refdoc": env.docname, "refexplicit": True, "refwarn": True}
        if link["refdomain"] == "doc":  # a page, or what has a page's suffix
            file = Path(link["reftarget"] + ".py")
            if link["reftarget"] in env.found_docs or not (root / file).is_file():
                return None
            if file.parts[0] == PACKAGE:
                return pending_xref(refdomain="py", reftype="mod", reftarget=dotted(file), **here)
            return download_reference(reftarget=f"/{file}", refdoc=env.docname)
        relative, absolute = env.relfn2path(link["reftarget"], env.docname)
        if not Path(absolute).is_dir() or (page := first_page(Path(relative))) is None:
            return None
        return pending_xref(refdomain="std", reftype="doc", reftarget=f"/{page}", **here)


def setup(app):
    app.add_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
