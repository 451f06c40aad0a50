"""Sphinx settings: `make docs` builds the pages under docs/_build."""

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from bert_lightning.version import __version__

FOLDER = Path(__file__).parent
PAGES_ELSEWHERE = {
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "experiments/README.md": "experiments",
}
sys.path.insert(0, str(FOLDER))

from generated import expand, scripts_of  # noqa: E402  (needs the line above)

project = "bert_lightning"
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
smartquotes_action = "D"  # dashes, but quotation marks as written

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write code as Markdown does
add_module_names = False
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch and Lightning refer to pages of theirs
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = True

html_theme = "furo"
html_title = "bert_lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/mark.svg"
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "sidebar_hide_name": False,
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b6e5f", "color-brand-content": "#0b6e5f"},
    "dark_css_variables": {"color-brand-primary": "#5cc9b5", "color-brand-content": "#5cc9b5"},
}
copybutton_exclude = ".linenos, .gp, .go"  # a copy of a console has its commands, without prompts and output


def expand_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Fill in the generated parts of a page, and rebuild the page when a script that it shows changes."""
    folder = (FOLDER / name).parent
    for script in scripts_of(source[0]):
        app.env.note_dependency(str((folder / script).resolve()), docname=name)
    source[0] = expand(source[0], folder)


def link_pages(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Make a link of each page that a text names by its path, such as `docs/data.md`."""
    for literal in list(doctree.findall(nodes.literal)):
        page = PAGES_ELSEWHERE.get(literal.astext()) or literal.astext().removeprefix("docs/").removesuffix(".md")
        inside_link = isinstance(literal.parent, nodes.reference)
        if literal.astext().endswith(".md") and page in app.env.found_docs and not inside_link:
            link = nodes.reference("", "", refuri=app.builder.get_relative_uri(name, page))
            literal.replace_self(link)
            link += literal


def prepare_docstring(
    app: Sphinx, what: str, name: str, described: object, options: object, lines: list[str]
) -> None:
    """Prepare a docstring for napoleon.

    The fields of a dataclass or named tuple are what they are to a caller: arguments of its constructor. And napoleon
    would take the words before a colon in the first line of an attribute for its type; after a comment it does not.
    """
    if isinstance(described, type) and (is_dataclass(described) or hasattr(described, "_fields")):
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    if what in ("attribute", "property", "data") and ":" in lines[0]:
        lines[:0] = ["..", ""]


def name_default_functions(
    app: Sphinx, what: str, name: str, described: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Name a default that is a function or class. Sphinx cannot read Python's form of it, such as `<function f>`.

    With one such default, it would break all types of the signature at their commas.
    """
    if signature:
        signature = signature.replace("<factory>", "...")
        signature = re.sub(r"<function (?:\w+\.)*<lambda>>", "...", signature)
        signature = re.sub(r"<(?:function|class) '?(?:\w+\.)*(\w+)'?>", r"\1", signature)
    return signature, returned


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", name_default_functions)
    app.connect("source-read", expand_page)
    app.connect("doctree-resolved", link_pages)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon's 500
