"""Trouble that passes: an ``EventSource`` comes back after it, and other clients see the status."""

from __future__ import annotations

import json
import logging

import pytest

from flosse_bus import bus, sse_stream
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable, TooManyStreams
from flosse_bus.limits import OpenStreams
from flosse_bus.transport import slots
from flosse_bus.wire import Decoder
from tests.asgi import site

pytestmark = pytest.mark.django_db(transaction=True)

STREAM = "text/event-stream"


@sse_stream(heartbeat=1)
def in_a_thread(request):
    yield "never"


def down(monkeypatch, configure):
    def fail(self):
        raise BackendUnavailable("down")

    monkeypatch.setattr(MemoryBackend, "tail", fail)


def full(monkeypatch, configure):
    monkeypatch.setattr(OpenStreams, "take", lambda *args: "MAX_STREAMS")


def many_topics(monkeypatch, configure):
    configure(MAX_TOPICS=1)


def no_thread(monkeypatch, configure):
    def take(client):
        raise TooManyStreams("none is left")

    monkeypatch.setattr(slots, "take", take)


CASES = [
    ("/events/?topic=news", down, 503, "unavailable"),
    ("/events/?topic=news", full, 429, "limited"),
    ("/events/?topic=news&topic=orders", many_topics, 429, "limited"),
    ("/s/", no_thread, 503, "unavailable"),
]


@pytest.fixture(params=CASES, ids=lambda case: case[1].__name__)
def trouble(request, at, monkeypatch, configure, caplog):
    url, cause, status, code = request.param
    at(in_a_thread)
    cause(monkeypatch, configure)
    yield url, status, code
    # It is told in the log and counted, whatever the client was sent; and the admins have no mail.
    logged = caplog.get_records("call")
    told = [record.getMessage() for record in logged if record.name == "flosse_bus"]
    assert [text for text in told if text.startswith("stream refused on ")]
    assert not [record for record in logged if record.levelno >= logging.ERROR]
    assert bus.hubs.notices.refusals == len(told)
    assert len(bus.streams) == 0


@pytest.mark.parametrize("given", ["", "abc-5", "nonsense", "earliest", "x" * 5000])
def test_an_event_source_is_told_in_the_stream(client, trouble, given):
    url, _, code = trouble
    response = client.get(url, HTTP_ACCEPT=STREAM, HTTP_LAST_EVENT_ID=given)
    assert (response.status_code, response["Content-Type"].partition(";")[0]) == (200, STREAM)
    assert "no-cache" in response["Cache-Control"]
    assert response["X-Accel-Buffering"] == "no"
    [block] = Decoder().feed(response.content)
    assert (block.event, json.loads(block.data)["code"]) == ("stream-error", code)
    assert 750 <= block.retry <= 1250
    assert block.id == (given if len(given) < 1000 else "")


@pytest.mark.parametrize("accept", ["*/*", None, "text/event-stream, application/json"])
def test_others_see_the_status(client, trouble, accept):
    url, status, _ = trouble
    response = client.get(url, **({} if accept is None else {"HTTP_ACCEPT": accept}))
    assert (response.status_code, response["Retry-After"]) == (status, "5")
    assert response.json()["detail"]


def test_the_take_over_does_the_same(run, trouble):
    url, _, code = trouble

    async def main():
        async with site() as here:
            sent = [("accept", STREAM), ("last-event-id", "abc-5")]
            stream = here.ask(url, headers=sent)
            await stream.over()
            assert stream.status == 200
            [block] = stream.blocks
            assert (block.event, block.id, block.retry > 0) == ("stream-error", "abc-5", True)
            assert json.loads(block.data)["code"] == code

    run(main())


def test_the_take_over_when_the_log_goes_away_in_between(run, monkeypatch, caplog):
    async def fail(self, *args):
        raise BackendUnavailable("down")

    monkeypatch.setattr(MemoryBackend, "atail", fail)

    async def main():
        async with site() as here:
            for accept, status in [(STREAM, 200), ("*/*", 503)]:
                stream = here.ask("/events/?topic=news", headers=[("accept", accept)])
                await stream.over()
                assert stream.status == status

    run(main())


URL = "/events/?topic=news&last_event_id=abc-5"


def stop():
    bus.hubs.end_all("shutdown")


def under_wsgi(client, aclient, run):
    response = client.get(URL)
    stop()
    content = b"".join(response.streaming_content)
    response.close()
    return content


def under_asgi(client, aclient, run):
    async def main():
        response = await aclient.get(URL)
        stop()
        content = b"".join([chunk async for chunk in response.streaming_content])
        response.close()
        return content

    return run(main())


def taken_over(client, aclient, run):
    async def main():
        stop()
        async with site() as here:
            stream = await here.get(URL)
            return b"".join(stream.pieces)

    return run(main())


@pytest.mark.parametrize("how", [under_wsgi, under_asgi, taken_over])
def test_a_stream_that_was_to_begin_while_the_server_stops(client, aclient, run, caplog, how):
    """It is told and counted like any other."""
    [block] = Decoder().feed(how(client, aclient, run))
    assert (block.event, block.id, block.retry > 0) == ("stream-error", "abc-5", True)
    detail = "The server is stopping. Try again."
    assert json.loads(block.data) == {"code": "unavailable", "detail": detail}
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told] == [f"stream refused on news: {detail}"]
    assert client.get("/events/health/").json()["buses"]["default"]["counters"]["refused"] == 1


def test_one_that_has_begun_is_not_refused(client):
    response = client.get("/events/?topic=news")
    assert b"stream-open" in next(response.streaming_content)
    stop()
    assert b"".join(response.streaming_content) == b""
    response.close()
    assert bus.hubs.notices.refusals == 0


def test_no_cache_keeps_it(client, settings, monkeypatch, configure):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.MIDDLEWARE = [
        "flosse_bus.middleware.BusMiddleware",
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    with monkeypatch.context() as patch:
        full(patch, configure)
        refused = client.get("/events/?topic=news", HTTP_ACCEPT=STREAM)
        assert b"limited" in refused.content
    response = client.get("/events/?topic=news", HTTP_ACCEPT=STREAM)
    assert response.streaming
    response.close()


@pytest.mark.parametrize(
    ("url", "status"), [("/events/", 400), ("/events/?topic=a%20b", 400), ("/events/?topic=x", 403)]
)
def test_what_is_not_temporary_stays_an_error(client, url, status):
    assert client.get(url, HTTP_ACCEPT=STREAM).status_code == status
