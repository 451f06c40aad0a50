"""Sphinx settings: `make docs` builds the pages under docs/_build."""

project = "bert_lightning"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
