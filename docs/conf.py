"""Configure Sphinx, which builds these pages as a site: ``make docs``."""

import re

from sphinx.application import Sphinx

from kbatch_server import __version__

project = "kbatch-server"
author = "the kbatch-server developers"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "autodoc_traits"]
exclude_patterns = ["_build"]

# a reference to something of this package that no page describes is a warning
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!kbatch_server\.).*")]

# links to headings are written as GitHub reads them
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

# the theme brings its fonts and scripts along; an option that names a service elsewhere would break that
html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "tutorial": []}
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "show_nav_level": 2,
}

AT_THE_ROOT = {
    "CHANGELOG": "changelog",
    "CODE_OF_CONDUCT": "conduct",
    "CONTRIBUTING": "contributing",
    "RELEASE": "release",
    "SECURITY": "report",
}
"""The pages that include a file of the project's root, by that file's name."""


def point_to_pages(app: Sphinx, path: object, docname: str, content: list[str]) -> None:
    """Let links between files of the root lead from page to page in the site."""
    content[0] = re.sub(
        rf"\]\(({'|'.join(AT_THE_ROOT)})\.md\)", lambda match: f"]({AT_THE_ROOT[match[1]]}.md)", content[0]
    )


def setup(app: Sphinx) -> None:
    """Have Sphinx call what is defined here."""
    app.connect("include-read", point_to_pages)
