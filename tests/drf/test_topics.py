"""Topics of the bus behind REST framework's authentication and permissions."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from flosse_bus import bus, topic
from flosse_bus.contrib.drf.topics import Topics
from flosse_bus.contrib.drf.views import SubscribeAPIView
from flosse_bus.events import STATE
from flosse_bus.exceptions import BackendUnavailable, InvalidTopic
from flosse_bus.topics import authorisers
from tests.asgi import site
from tests.drf.conftest import blocks_of

pytestmark = pytest.mark.django_db(transaction=True)

NOT_ALLOWED = "You may not read these topics."


@pytest.fixture
def only_ann():
    """An authoriser for one test."""

    @topic("ann.{thing}")
    def only_ann(request, thing):
        return request.user.get_username() == "ann"

    yield
    authorisers.unregister(only_ann)


@pytest.mark.parametrize(
    ("path", "how", "status", "body"),
    [
        ("rooms/5/", "nobody", 401, {"detail": "Authentication credentials were not provided."}),
        ("rooms/5/", "bad token", 401, {"detail": "Invalid token."}),
        ("rooms/5/", "token", 200, None),
        ("rooms/5/", "session", 200, None),
        ("rooms/5/", "basic", 200, None),
        ("rooms/*/", "token", 400, None),
        ("rooms/a.b/", "token", 400, None),
        (
            "rooms/5/?topic=news",
            "token",
            400,
            {"detail": "This stream has topics of its own: leave out ?topic=", "topics": ["news"]},
        ),
        ("own/", "token", 200, None),
        ("named/?topic=news", "nobody", 200, None),
        ("named/?topic=ann.door", "token", 200, None),
        ("named/?topic=ann.door&topic=orders.*", "token", 200, None),
        (
            "named/?topic=news&topic=secret",
            "token",
            403,
            {"detail": NOT_ALLOWED, "topics": ["secret"]},
        ),
        (
            "named/?topic=secret",
            "nobody",
            401,
            {"detail": "Authentication credentials were not provided."},
        ),
        ("named/", "token", 400, {"detail": "Name at least one topic: ?topic=orders&topic=news"}),
        (
            "named/?" + "&".join(f"topic=load.{n}" for n in range(51)),
            "token",
            429,
            {
                "detail": "51 topics in one stream; MAX_TOPICS allows 50.",
                "topics": [f"load.{n}" for n in range(51)],
            },
        ),
    ],
)
@pytest.mark.parametrize("method", ["get", "head"])
def test_who_may_read(get, headers, only_ann, path, how, status, body, method):
    response = get(
        f"/api/{path}", method=method, accept="text/event-stream, */*;q=0.1", **headers(how)
    )
    assert response.status_code == status
    kind = "text/event-stream; charset=utf-8" if status == 200 else "application/json"
    assert response["Content-Type"] == kind
    assert len(bus.streams) == (status == 200 and method == "get")
    if body is not None and method == "get":
        assert response.json() == body


def test_in_debug_a_refusal_says_why(get, headers, settings):
    settings.DEBUG = True
    response = get("/api/named/?topic=secret", **headers("token"))
    assert "No authoriser covers 'secret'" in response.json()["hint"]


def test_a_backend_that_is_down(get, headers, monkeypatch, caplog):
    def fail():
        raise BackendUnavailable("down")

    monkeypatch.setattr(bus.backend, "tail", fail)
    response = get("/api/rooms/5/", accept="text/event-stream, */*;q=0.1", **headers("token"))
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.json() == {"detail": "The event bus is not reachable.", "topics": ["rooms.5"]}
    assert response["Cache-Control"] == "no-store"
    # Django mails what it logs as an error.
    assert [record for record in caplog.records if record.name == "django.request"] == []
    assert len(bus.streams) == 0


def test_streams_are_counted_by_the_apis_user(get, headers, configure):
    configure(MAX_STREAMS_PER_CLIENT=1)
    assert get("/api/rooms/5/", REMOTE_ADDR="10.0.0.1", **headers("token")).status_code == 200
    response = get(
        "/api/rooms/5/",
        REMOTE_ADDR="10.0.0.2",
        accept="text/event-stream, */*;q=0.1",
        **headers("basic"),
    )
    assert response.status_code == 429
    assert "MAX_STREAMS_PER_CLIENT" in response.json()["detail"]


@pytest.mark.parametrize("how", ["token", "session"])
def test_events_arrive_and_a_stream_resumes(get, headers, how):
    sent = [bus.publish("rooms.5", n) for n in range(4)]
    response = get("/api/rooms/5/", **headers(how), **{"Last-Event-ID": sent[1].id})
    blocks = (b for b in blocks_of(response.streaming_content) if b.event not in STATE)
    assert [next(blocks).data for _ in range(2)] == ["2", "3"]
    bus.publish("rooms.6", "elsewhere")
    bus.publish("rooms.5", "live", event="said")
    block = next(blocks)
    assert (block.event, block.data) == ("said", "live")


def test_the_take_over_sends_it(run, headers):
    after = bus.publish("rooms.5", 1).id
    bus.publish("rooms.5", 2)
    sent = [(name.lower(), value) for name, value in headers("token").items()]

    async def main():
        async with site() as here:
            stream = await here.follow("/api/rooms/5/", headers=[*sent, ("last-event-id", after)])
            await stream.got("2")
            assert bus.hubs.here().streams == 1
            await bus.apublish("rooms.5", 3, using=None)
            await stream.got("2", "3")
            refused = await here.get("/api/rooms/5/")
            assert (refused.status, refused.headers["content-type"]) == (401, "application/json")

    run(main())


@pytest.mark.parametrize(
    ("names", "options", "filled"),
    [
        (["rooms.{room}", "news"], {}, ("rooms.5", "news")),
        (["rooms.*"], {"patterns": True}, ("rooms.*",)),
        (None, {}, None),
        (["rooms.*"], {}, InvalidTopic),
        (["rooms.{star}"], {"patterns": True}, InvalidTopic),
        (["rooms.{other}"], {}, InvalidTopic),
        ([], {}, InvalidTopic),
        ([""], {}, InvalidTopic),
        ([None], {}, InvalidTopic),
    ],
)
def test_topics(names, options, filled):
    values = {"room": 5, "star": "*"}
    if isinstance(filled, type):
        with pytest.raises(filled):
            Topics(names, **options).filled(values)
    else:
        assert Topics(names, **options).filled(values) == filled


def test_a_name_is_no_list_of_names():
    with pytest.raises(TypeError, match="'news'"):
        Topics("news")


@pytest.mark.parametrize("topics", ["news", [], ["a b"], ["rooms.{room"]])
def test_what_can_never_work_is_refused_when_urls_are_loaded(topics):
    with pytest.raises(ImproperlyConfigured, match="SubscribeAPIView: topics: "):
        SubscribeAPIView.as_view(topics=topics)
