"""Streams of REST framework's views on a real server, and in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.servers.test_servers import place
from tests.streams_client import Streams

pytestmark = [pytest.mark.server, pytest.mark.measured]

API = {"DJANGO_SETTINGS_MODULE": "tests.drf.settings"}
#: The example project's user.
DEMO = "Authorization: Basic ZGVtbzpkZW1v"


def threads(server):
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def test_a_stream_resumes_and_costs_no_thread(serve, http):
    server = serve("uvicorn", env=API)
    path = "/api/named/"
    with Streams(server.port) as clients:
        [stream] = clients.begin("orders", path=path)
        place(http, server.url)
        wait_until(lambda: stream.events, "an event")
        clients.cut(stream)
        wait_until(lambda: stream.end, "the end")
        for item in ("Grinder", "Kettle"):
            place(http, server.url, item)
        [stream] = clients.begin("orders", path=path, after=stream.last_id)
        wait_until(lambda: len(stream.events) == 2, "what was missed")
        assert [event for event, _ in stream.events] == ["shop.order.created"] * 2

        many = clients.begin(path="/api/rooms/5/", count=50, headers=[DEMO])
        assert {stream.status for stream in many} == {200}
        wait_until(lambda: threads(server) < 30, "the requests' threads to end")
        refused = http.get(f"{server.url}/api/rooms/5/", headers={"Accept": "text/event-stream"})
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/json")
    output = server.output()
    assert "Traceback" not in output, output[-3000:]


@pytest.mark.parametrize("kind", ["uvicorn", "gthread"])
def test_generators(serve, kind):
    server = serve(kind, env=API)
    with Streams(server.port) as clients:
        for path in ("/api/counting/", "/api/acounting/"):
            [stream] = clients.open(path=path, headers=[DEMO])
            wait_until(lambda stream=stream: stream.end, "the end")
            counted = [("message", f'{{"number": {n}}}') for n in (1, 2, 3)]
            assert (stream.end, stream.events) == ("clean", [("who", "demo"), *counted])
            assert stream.last_id == "3"


@pytest.mark.browser
def test_the_page_shows_the_stream(serve, http, page):
    server = serve("uvicorn", env=API)
    page.goto(f"{server.url}/api/named/?topic=orders")
    page.wait_for_selector('#flosse-stream[data-state="live"]')
    place(http, server.url, "Grinder")
    page.wait_for_function(
        "document.querySelector('#flosse-stream').textContent.includes('shop.order.created')"
    )
    assert "HTTP 200 OK" in page.locator(".response-info").inner_text()
    page.goto(f"{server.url}/api/counting/")
    page.wait_for_selector('#flosse-stream[data-state="ended"]')
    text = page.locator("#flosse-stream").inner_text()
    assert text.startswith("retry: 1234\nevent: who\ndata: AnonymousUser\n\n")
    assert text.rstrip().endswith('id: 3\ndata: {"number": 3}')


@pytest.mark.browser
def test_a_stream_that_is_refused_after_its_page(serve, page):
    """The script shows what the server says."""
    server = serve("uvicorn", env=API)
    page.goto(f"{server.url}/api/named/?topic=secret")
    page.wait_for_selector('#flosse-stream[data-state="refused"]')
    assert "HTTP 401" in page.locator("#flosse-stream").inner_text()


@pytest.mark.browser
def test_the_page_is_left_and_the_stream_is_gone(serve, http, page):
    server = serve("uvicorn", env=API)
    page.goto(f"{server.url}/api/named/?topic=orders")
    page.wait_for_selector('#flosse-stream[data-state="live"]')
    health = f"{server.url}/events/health/"

    def streams():
        return http.get(health).json()["buses"]["default"]["streams"]

    assert streams() == 1
    page.goto("about:blank")
    wait_until(lambda: streams() == 0, "the stream to end")
