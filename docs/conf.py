"""Sphinx: Markdown in, HTML out, no network. ``sphinx-build -W -n -b html docs docs/_build``."""

project = "django-flosse-bus"
author = "The flosse_bus developers"
copyright = author

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
