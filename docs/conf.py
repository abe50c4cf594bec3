"""How `make docs` builds the site: Markdown pages, and a reference out of the docstrings."""

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
