"""Firefox reads streams as Chromium does, of an ASGI and of a WSGI server."""

from __future__ import annotations

import pytest

from tests.servers.expected import check

pytestmark = [pytest.mark.server, pytest.mark.browser]


@pytest.mark.parametrize("kind", ["uvicorn", "gthread"])
def test_firefox_reads_its_streams(serve, firefox_hub, kind):
    server = serve(
        kind,
        env={"DJANGO_SETTINGS_MODULE": "tests.lab.settings"},
        bus={"ALLOWED_ORIGINS": [firefox_hub.url]},
    )
    check(firefox_hub, server.url, dropped="\0")
