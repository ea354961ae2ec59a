"""EventStreamAPIView: what REST framework does before a stream, and the stream."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer

from flosse_bus import bus, buses
from flosse_bus.contrib.drf.renderers import (
    EventStreamBrowsableAPIRenderer,
    EventStreamRenderer,
    stream_renderers,
)
from flosse_bus.contrib.drf.views import EventStreamAPIView
from flosse_bus.exceptions import TooManyStreams
from flosse_bus.transport import slots
from flosse_bus.wire import Decoder
from tests.asgi import site
from tests.drf.conftest import events
from tests.drf.views import Counting

pytestmark = pytest.mark.django_db(transaction=True)

COUNTED = [("message", f'{{"number": {n}}}') for n in (1, 2, 3)]
STREAM, JSON, PAGE = "text/event-stream; charset=utf-8", "application/json", "text/html"
FORMS = pytest.mark.parametrize("form", ["", "a"], ids=["sync", "async"])


@FORMS
def test_a_stream(get, form):
    response = get(f"/api/{form}counting/")
    assert (response.status_code, response["Content-Type"]) == (200, STREAM)
    assert response["Allow"] == "GET, HEAD, OPTIONS"
    assert "Accept" in response["Vary"]
    assert "no-cache" in response["Cache-Control"]
    pieces = list(response.streaming_content)
    assert pieces[0].startswith(b"retry: 1234\nevent: who\n")
    assert pieces[-1] == b'id: 3\ndata: {"number": 3}\n\n'


@FORMS
@pytest.mark.parametrize("how", ["nobody", "session", "token", "basic"])
def test_the_generator_gets_the_authenticated_user(run, headers, form, how):
    sent = [(name.lower(), value) for name, value in headers(how).items()]

    async def main():
        async with site() as here:
            stream = await here.get(f"/api/{form}counting/", headers=sent)
            assert (stream.status, stream.complete) == (200, True)
            return stream.events

    who = "AnonymousUser" if how == "nobody" else "ann"
    assert run(main()) == [("who", who), *COUNTED]


@FORMS
@pytest.mark.parametrize(
    ("how", "status", "detail"),
    [
        ("nobody", 401, "Authentication credentials were not provided."),
        ("bad token", 401, "Invalid token."),
        ("bad basic", 401, "Invalid username/password."),
        ("session", 200, None),
        ("token", 200, None),
        ("basic", 200, None),
    ],
)
def test_authentication_and_permission(get, headers, form, how, status, detail):
    response = get(f"/api/{form}members/", **headers(how))
    assert response.status_code == status
    if detail is None:
        assert events(response) == [("who", "ann"), *COUNTED]
    else:
        assert response.json() == {"detail": detail}
        assert response["Content-Type"] == JSON
        assert response["WWW-Authenticate"] == "Token"


@pytest.mark.parametrize(
    ("path", "status", "body", "also"),
    [
        (
            "session-members/",
            403,
            {"detail": "Authentication credentials were not provided."},
            {},
        ),
        (
            "throttled/",
            429,
            {"detail": "Request was throttled. Expected available in 7 seconds."},
            {"Retry-After": "7"},
        ),
        ("checked/missing/", 404, {"detail": "No such thing."}, {}),
        ("checked/response/", 202, {"not": "a stream"}, {}),
        ("counting/?format=xml", 404, None, {}),
    ],
)
def test_answers_that_are_no_streams_are_json(get, path, status, body, also):
    response = get(f"/api/{path}", accept="text/event-stream, */*;q=0.1")
    assert (response.status_code, response["Content-Type"]) == (status, JSON)
    assert body is None or response.json() == body
    assert {name: response[name] for name in also} == also
    assert not response.streaming


def test_an_event_source_that_is_throttled_comes_back(get, caplog):
    """It is told when, and keeps its position. The log has it as what it is."""
    before = bus.hubs.notices.refusals
    response = get("/api/throttled/", **{"Last-Event-ID": "7"})
    assert (response.status_code, response["Content-Type"]) == (200, STREAM)
    [block] = Decoder().feed(response.content)
    assert (block.event, block.id) == ("stream-error", "7")
    detail = "Request was throttled. Expected available in 7 seconds."
    assert json.loads(block.data) == {"code": "limited", "detail": detail}
    assert 5250 <= block.retry <= 8750
    [record] = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "flosse_bus")
    assert record.getMessage() == f"stream refused on Throttled: {detail}"
    assert bus.hubs.notices.refusals == before + 1


@pytest.mark.parametrize("path", ["audit/", "audits/log/", "audit-throttled/"])
def test_another_bus_refuses_by_its_own_settings(get, settings, path):
    settings.FLOSSE_BUS = {"default": {}, "audit": {"RETRY": 60_000, "MAX_TOPICS": 1}}
    response = get(f"/api/{path}")
    [block] = Decoder().feed(response.content)
    assert (block.event, json.loads(block.data)["code"]) == ("stream-error", "limited")
    assert 45_000 <= block.retry <= 75_000
    assert [each.hubs.notices.refusals for each in buses.all()] == [0, 1]


@pytest.mark.parametrize(
    ("path", "accept", "status", "kind"),
    [
        ("counting/", "text/event-stream", 200, STREAM),
        ("counting/", "text/*", 200, STREAM),
        ("counting/", "*/*", 200, STREAM),
        ("counting/", None, 200, STREAM),
        ("counting/", "application/json, text/event-stream", 200, STREAM),
        ("counting/", "text/html,application/xhtml+xml,*/*;q=0.8", 200, PAGE),
        ("counting/", "application/json", 406, JSON),
        ("counting/?format=sse", "*/*", 200, STREAM),
        ("counting/?format=sse", "text/html, */*", 200, STREAM),
        ("counting/?format=sse", "text/html", 406, JSON),
        ("counting/?format=api", "*/*", 200, PAGE),
        ("counting/?format=api", "text/event-stream", 406, JSON),
        ("counting.sse", "text/html, */*", 200, STREAM),
        ("counting.api", "*/*", 200, PAGE),
        ("counting/?format=json", "*/*", 404, JSON),
    ],
)
@FORMS
def test_negotiation(get, form, path, accept, status, kind):
    response = get(f"/api/{form}{path}", accept=accept)
    assert (response.status_code, response["Content-Type"].split(";")[0]) == (
        status,
        kind.split(";")[0],
    )
    assert response.streaming is (kind is STREAM)


@pytest.mark.parametrize(
    ("accept", "version"), [("text/event-stream; version=2.0", "2.0"), ("*/*", "None")]
)
def test_versioning(get, accept, version):
    assert events(get("/api/versioned/", accept=accept)) == [("message", version)]


def test_a_method_that_checks_first_and_returns_a_generator(get):
    assert events(get("/api/checked/found/")) == [("message", "found")]


@FORMS
def test_head_and_options(get, form):
    response = get(f"/api/{form}members/", method="head")
    assert (response.status_code, response["Content-Type"]) == (401, JSON)
    response = get(f"/api/{form}counting/", method="head")
    assert (response.status_code, response["Content-Type"]) == (200, STREAM)
    assert (response.streaming, response.content) == (False, b"")
    response = get(f"/api/{form}counting/", method="options")
    assert (response.status_code, response["Content-Type"]) == (200, JSON)
    assert response.json()["renders"] == ["text/event-stream", "text/html"]
    response = get(f"/api/{form}counting/", method="options", accept="text/html")
    assert response["Content-Type"].startswith(PAGE)


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_only_reading(get, method):
    response = get("/api/counting/", method=method)
    assert (response.status_code, response["Content-Type"]) == (405, JSON)


@pytest.mark.parametrize("debug", [False, True])
def test_no_thread_is_left(get, settings, monkeypatch, debug):
    settings.DEBUG = debug

    def take(client):
        raise TooManyStreams("which setting")

    monkeypatch.setattr(slots, "take", take)
    monkeypatch.setattr(Counting, "heartbeat", 1.0)  # so that it needs one under WSGI
    response = get("/api/counting/", accept="text/event-stream, */*;q=0.1")
    assert (response.status_code, response["Content-Type"]) == (503, JSON)
    assert response["Retry-After"] == "5"
    body = {"detail": "Too many open streams: MAX_STREAM_THREADS is reached."}
    assert response.json() == body | ({"hint": "which setting"} if debug else {})


@pytest.mark.parametrize(
    ("path", "streams"),
    [
        ("counting/", True),
        ("members/", True),
        ("rooms/5/", True),
        ("named/?topic=news", True),
        ("users/names/", True),
        ("users/5/events/", True),
        ("users/", False),
        ("users/5/", False),
    ],
)
@pytest.mark.parametrize("method", ["get", "options"])
def test_other_origins(get, configure, path, streams, method):
    """BusMiddleware answers for streams and their refusals; the rest of the API is not its own."""
    origin = "https://app.example.com"
    configure(ALLOWED_ORIGINS=[origin])
    preflight = {"Access-Control-Request-Method": "GET"} if method == "options" else {}
    response = get(f"/api/{path}", method=method, Origin=origin, **preflight)
    assert response.get("Access-Control-Allow-Origin") == (origin if streams else None)


class Neither(EventStreamAPIView):
    pass


class Both(EventStreamAPIView):
    def stream(self, request):
        yield "a"

    async def astream(self, request):
        yield "a"


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        (Neither, {}, "Neither must define either"),
        (Both, {}, "Both must define either"),
        (Counting, {"retry": -1}, "Counting: retry: "),
        (Counting, {"heartbeat": 0}, "Counting: heartbeat: "),
    ],
)
def test_what_can_never_work_is_refused_when_urls_are_loaded(view, options, message):
    with pytest.raises(ImproperlyConfigured, match=message):
        view.as_view(**options)


def test_pages_are_for_projects_that_have_them():
    both = [EventStreamRenderer, EventStreamBrowsableAPIRenderer]
    assert stream_renderers([JSONRenderer, BrowsableAPIRenderer]) == both
    assert stream_renderers([JSONRenderer]) == [EventStreamRenderer]


def test_another_renderer_that_is_chosen_gets_no_stream(get, monkeypatch):
    monkeypatch.setattr(Counting, "renderer_classes", [EventStreamRenderer, JSONRenderer])
    response = get("/api/counting/", accept="application/json")
    assert (response.status_code, response["Content-Type"]) == (406, JSON)
