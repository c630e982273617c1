"""The order of the pages: the table of contents, added to README.md while it is read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

# Caption -> pages and patterns. What a pattern finds and another section has is not repeated.
SECTIONS = {
    "": ["README"],
    "Course": ["notebooks/README", "notebooks/*"],
    "Concepts": ["docs/architecture", "docs/paper_map", "docs/sampling", "docs/editing"],
    "Tasks and models": ["docs/tasks", "docs/shipped", "docs/zoo", "docs/published_weights"],
    "Your own images": [
        "docs/your_images",
        "docs/emoji",
        "docs/configuration",
        "docs/run_directory",
        "docs/estimate",
        "docs/tpu",
    ],
    "Evaluation": ["docs/evaluation", "benchmarks/README"],
    "API": [
        "docs/api",
        "ldm_jax/__init__",
        *(
            f"ldm_jax/{room}/__init__"
            for room in (
                "autoencoder",
                "diffusion",
                "conditioning",
                "sampling",
                "data",
                "training",
                "evaluation",
                "pretrained",
                "shipped",
                "experiments",
                "model",
                "commands",
            )
        ),
        "ldm_jax/*/__init__",
    ],
    "More": ["docs/*", "CHANGELOG"],
    "Solutions": ["notebooks/*/**/*"],
}
SUFFIXES = (".md", ".ipynb", "__init__.py")


def pages_of(pattern: str) -> list[str]:
    """The pages, without their suffixes, that a pattern finds in the repository, by name."""
    files = [f for f in ROOT.glob(f"{pattern}.*") if f.name.endswith(SUFFIXES)]
    return sorted(str(f.relative_to(ROOT).with_suffix("")) for f in files)


def sections() -> dict[str, list[str]]:
    """Each section's pages in order; a page stands in one section. Empty ones are left out."""
    listed = {page for patterns in SECTIONS.values() for page in patterns}
    found = {}
    for caption, patterns in SECTIONS.items():
        pages = []
        for pattern in patterns:
            again = {page for other in (*found.values(), pages) for page in other}
            fixed = "*" not in pattern
            pages += [p for p in pages_of(pattern) if p not in again and (fixed or p not in listed)]
        if pages:
            found[caption] = pages
    return found


def tables_of_contents() -> str:
    """What is added to README.md: it stands beside every page, and is not shown in the text."""
    lines = []
    for caption, pages in sections().items():
        options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
        pages = ["Start <self>" if page == "README" else page for page in pages]
        lines += ["", "```{toctree}", *options, "", *pages, "```"]
    return "\n".join(lines)


def add_tables_of_contents(app, docname: str, source: list[str]) -> None:
    if docname == app.config.root_doc:
        source[0] += tables_of_contents()


def setup(app):
    app.connect("source-read", add_tables_of_contents)
    return {"parallel_read_safe": True}
