"""A page of another origin while the server is away, and no proxy answers for it."""

from __future__ import annotations

import pytest

from flosse_bus import bus

pytestmark = [pytest.mark.server, pytest.mark.browser]


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_a_page_of_another_origin_comes_back_when_it_is_not_refused_any_more(
    request, serve, shared_bus, browser
):
    hub = request.getfixturevalue(f"{browser}_hub")
    entry = {**shared_bus, "ALLOWED_ORIGINS": [hub.url], "RETRY": 200}
    server = serve("uvicorn", bus=entry)
    number = hub.open(f"{hub.url}/refused/", url=f"{server.url}/events/?topic=load.x")
    hub.seen(f"{number}-open")
    bus.publish("load.x", "one")
    server.stop()
    bus.publish("load.x", "two")
    hub.seen(f"{number}-refused")
    serve("uvicorn", bus=entry, port=server.port)
    bus.publish("load.x", "last")
    assert hub.seen(number) == {"seen": ["one", "two", "last"], "closed": 0}
