"""The documentation site: `sphinx-build -W -c docs/site . build/site`.

The source folder is the root of the repository, so the pages are the files that the repository's
own web view shows, and their links and images mean the same in both. Nothing is copied or generated
beforehand. Nothing on a built page comes from another server.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the extensions of this folder

project = "ldm_jax"
author = "the authors of ldm_jax"
release = importlib.metadata.version("ldm_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "navigation",
    "python_pages",
    "links",
    "offline",
]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "docs/*.md",
    "benchmarks/README.md",
    "notebooks/**.md",
    "notebooks/**.ipynb",
    "ldm_jax/**.md",
    "ldm_jax/**__init__.py",
]
exclude_patterns = [".*", "build", "runs", "**/.ipynb_checkpoints", "**/__pycache__"]

# Markdown: as the repository's web view reads it
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_space = False  # "from $1 to $2" is no formula
myst_dmath_allow_digits = False
myst_heading_anchors = 6
highlight_language = "text"  # of blocks that name none

# Notebooks: as they are committed
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True

smartquotes = False  # -- begins an option

# Docstrings
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
add_module_names = False
toc_object_entries = False  # the list beside a page names its modules

# HTML
html_theme = "furo"
html_title = "ldm_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}  # leads to README.html
templates_path = ["templates"]
html_sourcelink_suffix = ""  # the page's source keeps its name: notebooks can be downloaded
html_show_sphinx = False
html_show_copyright = False

# MathJax in one file: the package has no Python that is needed here, only MathJax itself
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
mathjax_path = "tex-svg-full.js"
html_static_path.append(str(MATHJAX / mathjax_path))
