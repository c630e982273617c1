"""Every page works without a network: a script or a style sheet of another server is a warning."""

from sphinx.util.logging import getLogger

LOG = getLogger(__name__)


def check(app, pagename, templatename, context, doctree):
    files = [*context.get("script_files", ()), *context.get("css_files", ())]
    for name in (str(getattr(file, "filename", file)) for file in files):
        if "//" in name:
            LOG.warning("%s is loaded from another server", name, location=pagename)


def setup(app):
    app.connect("html-page-context", check, priority=900)  # after those that add files
    return {"parallel_read_safe": True, "parallel_write_safe": True}
