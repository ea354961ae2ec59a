import re
from pathlib import Path

import pytest

from flosse_bus import buses

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PAGES = [p for p in sorted(DOCS.glob("*.md")) if BLOCK.search(p.read_text())]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page(page):
    buses.close_all()
    text = page.read_text()
    ns = {"__name__": "docs"}
    for m in BLOCK.finditer(text):
        line = text[: m.start(1)].count("\n")
        exec(compile("\n" * line + m[1], str(page), "exec"), ns)
    buses.close_all()
