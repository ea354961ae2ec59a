"""SubscribeView, as a client sees it."""

from __future__ import annotations

import json

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory

from flosse_bus import bus, buses
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.permissions import AllowAny, BaseSSEPermission, IsAdminUser, IsAuthenticated
from flosse_bus.views import SubscribeView
from flosse_bus.wire import Decoder

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_opening_block(subscribe):
    bus.publish("news", 1)
    stream = subscribe("topic=news")
    opening = next(stream)
    assert 750 <= opening.retry <= 1250
    assert (opening.event, opening.id, opening.data) == (
        "stream-open", bus.cursor(), '{"resumed": false}',
    )  # fmt: skip
    assert stream.response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert stream.response["Cache-Control"] == "no-cache, no-transform"
    assert stream.response["X-Accel-Buffering"] == "no"
    assert "Content-Encoding" not in stream.response


def test_a_stream_that_opens_while_the_server_stops_says_when_to_come_back(subscribe, run, aclient):
    buses["default"].hubs.end_all("shutdown")
    [block] = subscribe("topic=news&last_event_id=abc-5")
    assert (block.event, block.id, block.retry is None) == ("stream-error", "abc-5", False)
    assert json.loads(block.data)["code"] == "unavailable"

    async def main():
        response = await aclient.get("/events/?topic=news")
        return [part async for part in response.streaming_content]

    [part] = run(main())
    assert part.startswith(b"retry: ")


def test_events_arrive_named_or_not(subscribe):
    stream = subscribe("topic=news&topic=orders")
    next(stream)
    events = [bus.publish("news", "plain\ntext"), bus.publish("orders", {"n": 1}, event="added")]
    first, second = stream.event(), stream.event()
    assert (first.event, first.data, first.id) == ("message", "plain\ntext", events[0].id)
    assert (second.event, second.data, second.id) == ("added", '{"n":1}', events[1].id)


def test_no_event_line_without_a_name(subscribe):
    stream = subscribe("topic=news")
    next(stream)
    bus.publish("news", 1)
    last = stream.event()
    assert stream.raw.endswith(f"id: {last.id}\ndata: 1\n\n".encode())


@pytest.mark.parametrize("how", ["header", "query"])
def test_resuming(subscribe, how):
    events = [bus.publish("news", n) for n in range(4)]
    if how == "header":  # which counts more than the query that the page began with
        stream = subscribe(
            f"topic=news&last_event_id={events[3].id}", HTTP_LAST_EVENT_ID=events[1].id
        )
    else:
        stream = subscribe(f"topic=news&last_event_id={events[1].id}")
    opening = next(stream)
    assert (opening.id, opening.data) == (events[1].id, '{"resumed": true}')
    assert [stream.event().data for _ in range(2)] == ["2", "3"]


def test_earliest(subscribe):
    bus.publish("news", 1)
    assert subscribe("topic=news&last_event_id=earliest").event().data == "1"


@pytest.mark.parametrize("last_event_id", ["garbage", "x" * 5000, "0-0", "\u00e9", "abc-1"])
def test_a_bad_cursor_is_a_reset_and_never_an_http_error(subscribe, last_event_id):
    stream = subscribe(f"topic=news&last_event_id={last_event_id}")
    reset = stream.event()
    assert reset.event == "stream-reset"
    assert json.loads(reset.data) == {"topics": ["news"], "reason": "unknown"}
    assert reset.id == bus.cursor()
    bus.publish("news", "live")
    assert stream.event().data == "live"


def test_the_envelope(subscribe):
    stream = subscribe("topic=news&envelope=1&last_event_id=earliest")
    event = bus.publish("news", {"a": "ü"}, event="named")
    block = stream.event()
    assert block.event == "message"
    assert json.loads(block.data) == {
        "topic": "news",
        "event": "named",
        "data": {"a": "ü"},
        "id": event.id,
    }


def test_heartbeats_keep_a_quiet_stream_fresh(subscribe, configure):
    configure(HEARTBEAT=0.05)
    stream = subscribe("topic=news")
    next(stream)
    last = bus.publish("load.other", 1)
    beat = stream.until(lambda block: block.id == last.id)
    assert (beat.event, beat.data) == ("stream-ping", "{}")


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("", 400, "Name at least one topic"),
        ("topic=a%20b", 400, "'a b' is not a topic or pattern"),
        ("topic=news&topic=a*", 400, "'a*' is not a topic"),
        ("topic=", 400, "is not a topic"),
        ("topic=secret", 403, "You may not read these topics."),
        ("topic=**", 403, "You may not read these topics."),
        ("topic=customers.*", 403, "You may not read these topics."),
        ("topic=orders.**", 403, "You may not read these topics."),
        (
            "&".join(f"topic=load.{n}" for n in range(51)),
            429,
            "51 topics in one stream; MAX_TOPICS",
        ),
    ],
)
def test_refusals(client, query, status, detail):
    response = client.get(f"/events/?{query}")
    assert response.status_code == status
    assert detail in response.json()["detail"]
    assert response["Cache-Control"] == "no-store"
    assert len(bus.streams) == 0


def test_a_refusal_names_only_what_is_refused(client):
    response = client.get("/events/?topic=news&topic=secret&topic=customers.1")
    assert response.json()["topics"] == ["secret", "customers.1"]
    assert "hint" not in response.json()


def test_in_debug_it_says_who_refused_and_what_to_do(client, settings):
    settings.DEBUG = True
    hint = client.get("/events/?topic=secret&topic=customers.1").json()["hint"]
    assert "No authoriser covers 'secret'" in hint
    assert "PUBLIC_TOPICS" in hint
    assert "testproject.shop.topics.can_read_customer ('customers.{customer_id}') said no" in hint


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_only_reading(client, method):
    assert getattr(client, method)("/events/?topic=news").status_code == 405


def test_head_opens_nothing(client):
    response = client.head("/events/?topic=news")
    assert (response.status_code, response.content) == (200, b"")
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert len(bus.streams) == 0
    assert client.head("/events/?topic=secret").status_code == 403


class Down(MemoryBackend):
    def tail(self):
        raise BackendUnavailable("down")


class FailsLater(MemoryBackend):
    async def atail(self):
        raise BackendUnavailable("down")


def test_a_backend_that_is_down(client, configure, caplog):
    configure(BACKEND=f"{__name__}.Down")
    # The suite is imported by path, so the class is put where its name says.
    import sys

    sys.modules.setdefault(__name__, sys.modules[Down.__module__])
    response = client.get("/events/?topic=news")
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.json() == {"detail": "The event bus is not reachable.", "topics": ["news"]}
    for _ in range(20):
        client.get("/events/?topic=news&last_event_id=s3cr3t")
    lines = [(r.levelname, r.name, r.getMessage()) for r in caplog.records]
    assert lines == [("WARNING", "flosse_bus", "stream refused on news: down")] * 10


def test_a_backend_that_goes_down_in_between(subscribe, configure, run, aclient):
    configure(BACKEND=f"{__name__}.FailsLater")
    blocks = list(subscribe("topic=news"))
    assert [block.event for block in blocks if block.data] == ["stream-error"]
    assert json.loads(blocks[-1].data)["code"] == "unavailable"
    assert len(bus.streams) == 0

    async def main():
        response = await aclient.get("/events/?topic=news")
        return b"".join([chunk async for chunk in response.streaming_content])

    assert b'"code": "unavailable"' in run(main())


class TestLimits:
    def test_max_streams(self, client, subscribe, configure):
        configure(MAX_STREAMS=2)
        streams = [subscribe("topic=news") for _ in range(2)]
        response = client.get("/events/?topic=news")
        assert response.status_code == 429
        assert "MAX_STREAMS is reached" in response.json()["detail"]
        streams[0].response.close()
        subscribe("topic=news")

    def test_max_streams_per_client(self, client, subscribe, configure, django_user_model):
        configure(MAX_STREAMS_PER_CLIENT=1)
        subscribe("topic=news", REMOTE_ADDR="10.0.0.1")
        subscribe("topic=news", REMOTE_ADDR="10.0.0.2")
        response = client.get("/events/?topic=news", REMOTE_ADDR="10.0.0.1")
        assert response.status_code == 429
        assert "MAX_STREAMS_PER_CLIENT" in response.json()["detail"]
        client.force_login(django_user_model.objects.create(username="ada"))
        subscribe("topic=news", REMOTE_ADDR="10.0.0.1")
        assert client.get("/events/?topic=news", REMOTE_ADDR="10.0.0.9").status_code == 429

    def test_a_place_is_given_up_however_the_response_ends(self, client, configure):
        configure(MAX_STREAMS=1)
        for end in ("close", "forget", "read"):
            response = client.get("/events/?topic=news")
            assert response.status_code == 200, end
            if end == "close":
                response.close()
            elif end == "read":
                next(iter(response.streaming_content))
                response.close()
            else:
                client.handler  # noqa: B018  # because only the response is let go
                response = None
                import gc

                gc.collect()
        assert len(bus.streams) == 0


def test_a_place_is_given_up_when_opening_fails(client, monkeypatch):
    def fail():
        raise RuntimeError("broken")

    monkeypatch.setattr(bus.backend, "tail", fail)
    with pytest.raises(RuntimeError, match="broken"):
        client.get("/events/?topic=news")
    assert len(bus.streams) == 0


class Deny(BaseSSEPermission):
    def has_permission(self, request):
        return False


class Explode(BaseSSEPermission):
    def has_permission(self, request):
        raise ZeroDivisionError


class AsyncAllow(BaseSSEPermission):
    async def has_permission(self, request):
        return await sync_to_async(get_user_model().objects.exists)() or True


class TestAsView:
    def get(self, path="/", user=None, kwargs=None, **initkwargs):
        request = RequestFactory().get(path)
        request.user = user or AnonymousUser()
        response = SubscribeView.as_view(**initkwargs)(request, **(kwargs or {}))
        if response.streaming:
            response.close()
        return response

    @pytest.mark.parametrize(
        ("classes", "who", "status"),
        [
            ([], "anonymous", 403),  # without classes the authorisers decide
            ([AllowAny], "anonymous", 200),
            ([BaseSSEPermission], "anonymous", 200),
            ([IsAuthenticated], "anonymous", 403),
            ([IsAuthenticated], "user", 200),
            ([IsAdminUser], "user", 403),
            ([IsAdminUser], "staff", 200),
            ([AllowAny, Deny], "staff", 403),
            ([Deny, Explode], "staff", 403),
            ([Explode], "staff", 403),
            ([AsyncAllow], "anonymous", 200),
            ([AsyncAllow, IsAuthenticated], "anonymous", 403),
        ],
    )
    def test_permission_classes(self, classes, who, status):
        users = {
            "anonymous": AnonymousUser(),
            "user": get_user_model()(pk=1),
            "staff": get_user_model()(pk=2, is_staff=True),
        }
        response = self.get(topics=["private"], permission_classes=classes, user=users[who])
        assert response.status_code == status

    def test_topics_from_the_query_need_authorisers_all_the_same(self):
        response = self.get("/?topic=private", permission_classes=[AllowAny])
        assert response.status_code == 403

    def test_own_topics_leave_no_room_for_others(self):
        response = self.get("/?topic=news", topics=["news"])
        assert response.status_code == 400
        assert "has topics of its own" in json.loads(response.content)["detail"]

    @pytest.mark.parametrize(
        ("value", "status"),
        [("5", 200), ("*", 400), ("**", 400), ("a.b", 400), ("", 400), ("a b", 400)],
    )
    def test_url_values_fill_one_segment_only(self, value, status):
        response = self.get(
            topics=["rooms.{room}"], permission_classes=[AllowAny], kwargs={"room": value}
        )
        assert response.status_code == status

    @pytest.mark.parametrize(
        "initkwargs",
        [
            {"topics": "news"},
            {"topics": []},
            {"topics": ["a b"]},
            {"permission_classes": AllowAny},
            {"permission_classes": [AllowAny()]},
            {"permission_classes": ["AllowAny"]},
        ],
    )
    def test_what_can_never_work_is_refused_when_urls_are_loaded(self, initkwargs):
        with pytest.raises(ImproperlyConfigured, match="SubscribeView: "):
            SubscribeView.as_view(**initkwargs)

    def test_another_bus(self, settings):
        settings.FLOSSE_BUS = {"default": {}, "audit": {"PUBLIC_TOPICS": ["log"]}}
        assert self.get("/?topic=log", bus="audit").status_code == 200
        assert self.get("/?topic=log").status_code == 403
        assert {b.config.alias for b in buses.opened()} == {"default", "audit"}


def test_asgi_streams_the_same(run, aclient, configure):
    configure(HEARTBEAT=0.1)

    async def main():
        response = await aclient.get("/events/?topic=news&last_event_id=earliest")
        assert response["Content-Type"] == "text/event-stream; charset=utf-8"
        decoder = Decoder()
        seen = []
        async for chunk in response.streaming_content:
            if not seen:
                await bus.apublish("news", "first")
            seen += [(block.event, block.data) for block in decoder.feed(chunk)]
            if ("message", "first") in seen and len(seen) > 3:
                break
        await response.streaming_content.aclose()
        response.close()
        assert len(bus.streams) == bus.hubs.streams == 0
        return seen

    assert run(main())[-1] == ("stream-ping", "{}")
