"""Streams leave uncompressed and unbuffered, wherever other middleware stands."""

from __future__ import annotations

import gzip
import itertools
import logging
import uuid

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.middleware.gzip import GZipMiddleware
from django.test import RequestFactory

from flosse_bus import bus, compression
from flosse_bus.responses import StreamResponse
from tests.asgi import site
from tests.lab import streams

pytestmark = pytest.mark.django_db(transaction=True)

BUS = "flosse_bus.middleware.BusMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
CONDITIONAL = "django.middleware.http.ConditionalGetMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"
UPDATE = "django.middleware.cache.UpdateCacheMiddleware"
FETCH = "django.middleware.cache.FetchFromCacheMiddleware"
SYNC, ASYNC = "tests.lab.middleware.from_sync", "tests.lab.middleware.from_async"

ORDERS = [
    *itertools.permutations([BUS, GZIP, CONDITIONAL]),
    (BUS, UPDATE, GZIP, COMMON, CONDITIONAL, FETCH),
    (UPDATE, GZIP, COMMON, CONDITIONAL, FETCH, BUS),
    (GZIP, SYNC, BUS, ASYNC, CONDITIONAL),
    (BUS, ASYNC, GZIP, SYNC),
    (BUS, GZIP, BUS),
]
ACCEPTS = ["text/event-stream", "*/*", None]


def label(order):
    return ">".join(path.rpartition(".")[2].replace("Middleware", "") for path in order)


orders = pytest.mark.parametrize("order", ORDERS, ids=label)
accepts = pytest.mark.parametrize("accept", ACCEPTS)


@pytest.fixture(autouse=True)
def lab(settings):
    settings.ROOT_URLCONF = "tests.lab.streams"
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": uuid.uuid4().hex,
        }
    }
    streams.taken.clear()


def headers(accept):
    fields = {"HTTP_ACCEPT_ENCODING": "gzip, br", "HTTP_IF_NONE_MATCH": "*"}
    return fields if accept is None else {**fields, "HTTP_ACCEPT": accept}


def assert_plain(response, order):
    assert response.status_code == 200
    assert response.get("Content-Encoding") == (None if order[0] == BUS else "identity")
    assert response["Cache-Control"] == "no-cache, no-transform"
    assert response["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response
    assert "ETag" not in response


@orders
@accepts
def test_under_wsgi(settings, client, order, accept):
    settings.MIDDLEWARE = [*order]
    for _ in range(2):  # the second could come from a cache
        streams.taken.clear()
        response = client.get("/sync/", **headers(accept))
        assert_plain(response, order)
        parts = iter(response.streaming_content)
        assert next(parts) == streams.BLOCKS[0]
        assert streams.taken == streams.BLOCKS[:1]
        assert list(parts) == streams.BLOCKS[1:]
        response.close()


@orders
@accepts
def test_under_asgi(settings, run, aclient, order, accept):
    settings.MIDDLEWARE = [*order]

    async def main():
        response = await aclient.get("/async/", **headers(accept))
        assert_plain(response, order)
        parts = aiter(response.streaming_content)
        assert await anext(parts) == streams.BLOCKS[0]
        assert streams.taken == streams.BLOCKS[:1]
        assert [part async for part in parts] == streams.BLOCKS[1:]
        response.close()

    run(main())


@orders
@accepts
def test_what_is_complete(settings, client, order, accept):
    settings.MIDDLEWARE = [*order]
    fields = headers(accept)
    if accept != "text/event-stream":  # then 304 is an answer: what is complete can be the same
        del fields["HTTP_IF_NONE_MATCH"]
    response = client.get("/complete/", **fields)
    assert response.status_code == 200
    assert response.content == b"".join(streams.BLOCKS)
    assert response.get("Content-Encoding") == (None if order[0] == BUS else "identity")
    if "Content-Length" in response:
        assert int(response["Content-Length"]) == len(response.content)


@pytest.fixture
def handed_over(monkeypatch):
    """What responses have given to our ASGI application: None where something was wrapped."""
    seen, really = [], StreamResponse.hand_over

    def hand_over(self):
        seen.append(really(self))
        return seen[-1]

    monkeypatch.setattr(StreamResponse, "hand_over", hand_over)
    return seen


@orders
def test_generators_are_handed_over(settings, handed_over, run, order):
    settings.MIDDLEWARE = [*order]

    async def main():
        async with site() as here:
            stream = await here.get("/generated/", headers=[("accept-encoding", "gzip")])
            assert stream.data == ["1"]

    run(main())
    assert [stream is not None for stream in handed_over] == [True]


@orders
@accepts
def test_our_own_are_handed_over(settings, handed_over, run, order, accept):
    settings.MIDDLEWARE = [*order]
    sent = [("accept-encoding", "gzip"), ("if-none-match", "*")]
    sent += [] if accept is None else [("accept", accept)]

    async def main():
        async with site() as here:
            stream = await here.follow(headers=sent)
            assert stream.headers.get("content-encoding") in (None, "identity")
            assert stream.headers["cache-control"] == "no-cache, no-transform"
            await bus.apublish("news", 1, using=None)
            await stream.got("1")

    run(main())
    assert [stream is not None for stream in handed_over] == [True]


@orders
def test_our_own_under_wsgi(settings, subscribe, order):
    settings.MIDDLEWARE = [*order]
    stream = subscribe("topic=news", **headers("*/*"))
    assert_plain(stream.response, order)
    next(stream)
    bus.publish("news", 1)
    assert stream.event().data == "1"


@orders
def test_a_stream_has_no_version(settings, client, order):
    """A view that gives it one still gets it sent, and what else it says is kept."""
    settings.MIDDLEWARE = [*order]
    response = client.get("/versioned/", HTTP_IF_NONE_MATCH='"1"', HTTP_ACCEPT="text/event-stream")
    assert response.status_code == 200
    assert b"".join(response.streaming_content) == b"".join(streams.BLOCKS)
    assert set(response["Cache-Control"].split(", ")) >= {
        "private", "max-age=5", "no-cache", "no-transform",
    }  # fmt: skip
    assert "ETag" not in response
    assert "Last-Modified" not in response


@pytest.mark.parametrize("url", ["/versioned/", "/complete/"])
@pytest.mark.parametrize("match", ['"1"', "*"])
def test_a_conditional_request_that_does_not_ask_for_a_stream_gets_it(settings, client, url, match):
    settings.MIDDLEWARE = [CONDITIONAL, BUS]
    response = client.get(url, HTTP_IF_NONE_MATCH=match)
    assert response.status_code == 200
    response.close()


def test_the_answer_to_head_is_not_kept(settings, client):
    settings.MIDDLEWARE = [BUS, UPDATE, FETCH]
    assert client.head("/events/?topic=news").status_code == 200
    settings.FLOSSE_BUS = {"default": {}}
    assert client.head("/events/?topic=news").status_code == 403


# What GZipMiddleware has not done


class Once:
    """An iterator that nobody knows."""

    def __iter__(self):
        return self

    def __next__(self):
        return b"x"


def begun(iterator):
    next(iterator)
    return iterator


def compressed(content, **kwargs):
    response = StreamingHttpResponse(content, content_type="text/event-stream")
    request = RequestFactory().get("/", HTTP_ACCEPT_ENCODING="gzip")
    return GZipMiddleware(lambda request: response)(request)


def with_begun():
    response = compressed(iter([b"x"]))
    response.streaming_content = begun(response._iterator)
    return response


def with_begun_async():
    async def parts():
        yield b"x"
        yield b"y"

    response = compressed(parts())
    with pytest.raises(StopIteration):  # that is its first part
        response._iterator.__anext__().send(None)
    return response


def encoded(encoding, content, response_class=StreamingHttpResponse):
    response = response_class(content, content_type="text/event-stream")
    response["Content-Encoding"] = encoding
    return response


UNKNOWN = {
    "brotli": lambda: encoded("br", Once()),
    "someone else's gzip": lambda: encoded("gzip", (part for part in [b"x"])),
    "no generator": lambda: encoded("gzip", Once()),
    "begun": with_begun,
    "begun, async": with_begun_async,
    "complete brotli": lambda: encoded("br", b"x", HttpResponse),
    "complete, but no gzip": lambda: encoded("gzip", b"x", HttpResponse),
    "complete, but cut off": lambda: encoded("gzip", gzip.compress(b"x")[:-9], HttpResponse),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_restored_is_left_alone_and_said_once(monkeypatch, caplog, make):
    monkeypatch.setattr(compression, "_warned", set())
    for _ in range(2):
        response = make()
        before = response["Content-Encoding"], getattr(response, "_iterator", None)
        compression.undo(response)
        assert (response["Content-Encoding"], getattr(response, "_iterator", None)) == before
        response.close()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("flosse_bus", logging.WARNING)
    assert f"Content-Encoding: {before[0]}" in record.message
    assert "before BusMiddleware" in record.message


@pytest.mark.parametrize("encoding", [None, "identity", "Identity"])
def test_nothing_is_done_where_nothing_is_compressed(caplog, encoding):
    response = encoded(encoding or "identity", Once())
    if encoding is None:
        del response["Content-Encoding"]
    compression.undo(response)
    assert next(iter(response.streaming_content)) == b"x"
    assert caplog.records == []


def test_gzip_is_undone_whatever_the_case():
    response = compressed(iter([b"x"]))
    response["Content-Encoding"] = "GZIP"
    compression.undo(response)
    assert list(response.streaming_content) == [b"x"]
    assert "Content-Encoding" not in response
