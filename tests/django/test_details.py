"""``request.sse``: what a request says about streams."""

from __future__ import annotations

import gc
import weakref

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from flosse_bus import details
from flosse_bus.middleware import BusMiddleware
from tests.asgi import Exchange

ACCEPTED = [
    (None, False),
    ("", False),
    ("*/*", False),
    ("text/*", False),
    ("text/html,application/xhtml+xml,*/*;q=0.8", False),
    ("text/event-stream", True),
    ("Text/Event-Stream", True),
    (" text/event-stream ; charset=utf-8 ", True),
    ("text/event-stream-not", False),
    ("application/text/event-stream", False),
    ("text/html, text/event-stream;q=0.1", True),
    ("text/event-stream;q=0", False),
    ("text/event-stream; Q=0.000, */*", False),
    ("text/event-stream;q=0, text/event-stream;charset=utf-8", True),
    ("text/event-stream;q=much", True),
    ("text/event-stream;;q=", True),
    ('text/plain; x="text/event-stream"', False),
]

WORD = "\u00fc\u20ac\U0001f600"


def wire(text):
    """What a server makes of a header in UTF-8: each byte a character."""
    return text.encode().decode("latin-1")


IDS = [
    # header, query, what comes of it
    (None, "", None),
    ("a", "", "a"),
    (None, "?last_event_id=b", "b"),
    ("a", "?last_event_id=b", "a"),
    (" a \t", "?last_event_id=b", "a"),
    (None, "?last_event_id=b&lastEventId=a", "a"),
    (None, "?last_event_id=b&lastEventID=a", "a"),
    (None, "?last_event_id=b&last-event-id=a", "a"),
    (None, "?last_event_id=b&Last-Event-ID=a", "a"),
    (None, "?last_event_id=b&lastEventId=", "b"),
    ("c", "?lastEventId=a", "c"),
    ("", "?last_event_id=b", "b"),
    (None, "?last_event_id=", None),
    (None, "?last_event_id=a&last_event_id=b", "b"),
    (wire(WORD), "", WORD),
    (None, "?last_event_id=%C3%BC%E2%82%AC%F0%9F%98%80", WORD),
    ("\xfc", "", None),
    (None, "?last_event_id=%FC", None),
    ("a" * 1024, "", "a" * 1024),
    ("a" * 1025, "", None),
    (wire("\u20ac" * 341), "", "\u20ac" * 341),
    (wire("\u20ac" * 342), "", None),
    (None, "?last_event_id=" + "a" * 1025, None),
    ("a" * 1025, "?last_event_id=b", None),
    ("a\0b", "", None),
    ("a\rb", "", None),
    (None, "?last_event_id=a%00", None),
    (None, "?last_event_id=a%0Ab", None),
    (None, "?last_event_id=a%0Db", None),
    (None, "?last_event_id=a%20b%09c", "a b\tc"),
]


def of(request):
    """Send a request through the middleware, and return what its view sees."""
    seen = []

    def view(request):
        seen.append(request)
        return HttpResponse()

    BusMiddleware(view)(request)
    return seen[0].sse


def wsgi(path="/", **headers):
    return RequestFactory().get(path, **headers)


def asgi(path="/", **headers):
    exchange = Exchange(path)
    exchange.scope["headers"] = [
        (name.removeprefix("HTTP_").replace("_", "-").lower().encode(), value.encode("latin-1"))
        for name, value in headers.items()
    ]
    return ASGIRequest(exchange.scope, None)


@pytest.fixture(params=[wsgi, asgi])
def make(request):
    return request.param


def test_both_are_what_servers_make():
    assert isinstance(wsgi(), WSGIRequest)
    assert isinstance(asgi(), ASGIRequest)


@pytest.mark.parametrize(("accept", "accepted"), ACCEPTED)
def test_accepted(make, accept, accepted):
    headers = {} if accept is None else {"HTTP_ACCEPT": accept}
    assert of(make(**headers)).accepted is accepted


@pytest.mark.parametrize(("header", "query", "expected"), IDS)
def test_last_event_id(make, header, query, expected):
    headers = {} if header is None else {"HTTP_LAST_EVENT_ID": header}
    assert of(make("/" + query, **headers)).last_event_id == expected


def test_what_no_server_can_have_received():
    assert of(wsgi(HTTP_LAST_EVENT_ID=WORD)).last_event_id is None


def test_async_factories_too():
    request = AsyncRequestFactory().get(
        "/?last_event_id=7", headers={"accept": "text/event-stream"}
    )
    sse = of(request)
    assert (sse.accepted, sse.last_event_id) == (True, "7")


def test_it_is_read_when_it_is_used_and_once(monkeypatch):
    read, real = [], details.resume_position

    def resume_position(*args):
        read.append(args)
        return real(*args)

    monkeypatch.setattr(details, "resume_position", resume_position)
    sse = of(wsgi(HTTP_LAST_EVENT_ID="1"))
    assert sse.accepted is False
    assert read == []
    assert (sse.last_event_id, sse.last_event_id) == ("1", "1")
    assert len(read) == 1


@pytest.mark.parametrize("name", ["accepted", "last_event_id", "other"])
def test_it_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        setattr(of(wsgi()), name, "x")


def test_it_can_be_printed():
    sse = of(wsgi(HTTP_LAST_EVENT_ID="1", HTTP_ACCEPT="text/event-stream"))
    assert repr(sse) == "<SSEDetails accepted=True last_event_id='1'>"


def test_it_keeps_no_request_alive():
    """A request goes when its last user does, and not when the garbage collector comes."""
    request = wsgi()
    seen = weakref.ref(request)
    gc.disable()
    try:
        sse = of(request)
        del request
        assert seen() is None
        assert sse.accepted is False
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("method", "headers", "encoding", "match"),
    [
        ("get", {"HTTP_ACCEPT": "text/event-stream"}, "identity", None),
        ("get", {"HTTP_ACCEPT": "text/event-stream;q=0"}, "gzip, br", '"1"'),
        ("get", {}, "gzip, br", '"1"'),
        # Writers that would lose an update by it.
        ("post", {"HTTP_ACCEPT": "text/event-stream"}, "identity", '"1"'),
    ],
)
@pytest.mark.parametrize("outer", [False, True])
def test_a_request_for_a_stream_is_neither_compressible_nor_conditional(
    settings, client, method, headers, encoding, match, outer
):
    settings.ROOT_URLCONF = "tests.lab.streams"
    settings.MIDDLEWARE = ["flosse_bus.middleware.BusMiddleware"]
    if outer:  # which has looked at the headers already
        settings.MIDDLEWARE.insert(0, "tests.lab.middleware.look")
    sent = {"HTTP_ACCEPT_ENCODING": "gzip, br", "HTTP_IF_MATCH": '"1"', "HTTP_IF_NONE_MATCH": '"1"'}
    seen = getattr(client, method)("/details/", **sent, **headers).json()
    assert (seen["encoding"], seen["match"]) == (encoding, match)
