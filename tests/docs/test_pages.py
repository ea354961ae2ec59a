"""Every ``python`` block of the README and the documentation runs, page by page, in order."""

from __future__ import annotations

import re

import pytest

from tests.processes import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if BLOCK.search(page.read_text())
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page):
    text = page.read_text()
    names = {"__name__": "docs"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")  # so that a traceback points into the page
        exec(compile("\n" * line + block[1], str(page), "exec"), names)
