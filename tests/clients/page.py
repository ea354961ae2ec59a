"""docs/clients.md, made from what a run has found."""

from __future__ import annotations

import re

from tests.clients.roster import CASES, PROXIES, ROSTER, TOLD_CASES
from tests.clients.verdict import EXACT, TOLD
from tests.processes import ROOT

PATH = ROOT / "docs" / "clients.md"
LIMIT = "limit"
#: A limit that is known counts as such: in a case of this name nobody has one.
NAIVE = "naive"
VERSION = re.compile(r"(?m)^(\| [^|]+ \| )[^|]+( \|)")

INTRODUCTION = """\
# Clients

What real clients do with a stream of the bus when their connection is cut. The suite runs all of them against a server, each
through a proxy of its own that cuts connections, and holds what they show against what was published. This page is written by
that run (`make torture`), and every run of the tests compares it with what it finds.

- **exact**: every event once and in order.
- **reset**: told with a `stream-reset` that history is gone, then everything from there; or, where a client has to fetch its
  content again, it did so and went on from there.
- **limit**: the client cannot do that. The reason stands below.

Nothing is lost in silence but where this page says so.
"""

EXAMPLES = """\
### A watchdog

Heartbeats (`stream-ping`) are events, so a stream that lives is never silent for long. What has no read timeout is closed when 2 to 3 of
them are missing, and opened again after the last id. This is what the suite runs:

```{literalinclude} ../tests/clients/drivers/follow.mjs
:language: js
:start-at: export function watched
:end-before: /** Take orders
```

### A loop

A library that only parses leaves coming back to you. This is what the suite runs:

```{literalinclude} ../tests/clients/drivers/libraries.py
:language: python
:pyobject: with_httpx_sse
```
"""


def expected(client, case):
    """Return what the table says of a case that this run has not tried."""
    if case in client.limits:
        return LIMIT
    return TOLD if case in TOLD_CASES or case in client.refetches else EXACT


def render(results, versions):
    """Return the page. ``results`` are cells by case and client; ``versions`` by client."""
    direct = [case for case in CASES if case not in PROXIES]
    parts = [INTRODUCTION, "## Connections that are cut\n", _table(direct, results, versions)]
    parts += [
        "## Restarts of the server behind a proxy\n",
        "With the proxy's file as in [](proxies.md). The stream ends, the proxy answers for a while without a server, and the\n"
        "client comes back. `make torture` also restarts the server ten times behind nginx while events go on. Where it is stopped, the\n"
        "clients above that are exact see every event. Where it is killed, nginx resets the streams, which WebKitGTK does not always\n"
        "notice: it needs its [watchdog](#a-watchdog), with which it is exact, too.\n",
        _table(PROXIES, results, versions),
        "## What a client cannot do\n",
        _limits(),
        "## What you must do\n",
        "The suite uses each client as this says.\n",
        _musts(),
        EXAMPLES,
    ]
    return "\n".join(parts)


def _table(cases, results, versions):
    lines = [
        "| Client | Version | " + " | ".join(CASES[case] for case in cases) + " |",
        "|---|---|" + "---|" * len(cases),
    ]
    for client in ROSTER:
        cells = [results.get(case, {}).get(client.name, expected(client, case)) for case in cases]
        if client.refetches:  # either is right
            cells = [
                TOLD if case in client.refetches and cell == EXACT else cell
                for case, cell in zip(cases, cells, strict=True)
            ]
        version = versions.get(client.name, "-")
        lines.append(f"| {client.name} | {version} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _limits():
    lines = []
    for client in ROSTER:
        by_text = {}
        for case, text in client.limits.items():
            by_text.setdefault(text, []).append(CASES[case])
        for text, cases in by_text.items():
            lines.append(f"- **{client.name}** ({'; '.join(cases)}): {text}")
        if not client.named:
            lines.append(
                f"- **{client.name}**: events with an `event` name of your own do not reach it."
            )
        if client.retry:
            lines.append(f"- **{client.name}**: {client.retry}")
    return "\n".join(lines) + "\n"


def _musts():
    lines = []
    for client in ROSTER:
        lines.append(f"**{client.name}**\n")
        lines += [f"- {text}" for text in client.must]
        lines.append("")
    return "\n".join(lines)


def without_versions(text):
    """Return the page as any run with the same findings writes it."""
    return VERSION.sub(r"\1-\2", text)
