"""How `make docs` builds the site: Markdown pages, and a reference out of the docstrings."""

from docutils import nodes

project = "evenload"
html_title = "evenload"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/examples"]
myst_heading_anchors = 3

default_role = "py:obj"  # a name in single backticks is a link where the reference has it
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and dtypes, which annotations cannot
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"  # brings its fonts and scripts along: the pages ask the network for nothing
html_static_path, html_css_files = ["_static"], ["site.css"]
html_copy_source = False
html_show_copyright = html_show_sphinx = False


def _framed(app, doctree):
    """Put each picture into a box of its own, which can be scrolled."""
    for picture in list(doctree.findall(nodes.image)):
        block = picture if isinstance(picture.parent, nodes.section) else picture.parent
        if len(block) <= 1:  # with a paragraph's text around it, it is no figure
            box = nodes.container(classes=["picture"])
            block.replace_self(box)
            box += picture


def _first_line(old, new):
    def replace(app, what, name, obj, options, lines):
        if what in ("attribute", "data", "property"):
            lines[:1] = [line.replace(old, new) for line in lines[:1]]

    return replace


def setup(app):
    """Frame pictures, and keep a property's first line whole."""
    app.connect("doctree-read", _framed)
    # napoleon, at 500, takes what precedes a colon there for the type.
    app.connect("autodoc-process-docstring", _first_line(": ", "\0"), priority=400)
    app.connect("autodoc-process-docstring", _first_line("\0", ": "), priority=600)
