"""What may end a stream that is open: the view is asked again."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from itertools import islice

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import Client
from rest_framework.authtoken.models import Token

from flosse_bus import bus, topic
from flosse_bus.contrib.drf.access import Guard
from flosse_bus.contrib.drf.streams import EventStreamMixin
from flosse_bus.events import STATE
from flosse_bus.topics import authorisers
from flosse_bus.transport import fanout
from tests.asgi import eventually, site
from tests.databases import DATABASE, ask_alone
from tests.drf import views
from tests.drf.conftest import blocks_of

pytestmark = pytest.mark.django_db(transaction=True)

#: Heartbeats after which a stream should have ended.
ENOUGH = 500


@pytest.fixture
def here(configure, settings):
    """Rechecks come with whatever is sent, and heartbeats are sent often."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.drf.views.named_by_proxy"]
    configure(HEARTBEAT=0.02)


def withdraw(user):
    Token.objects.all().delete()


def log_out(user):
    Session.objects.all().delete()


def deactivate(user):
    user.is_active = False
    user.save()


def change_password(user):
    user.set_password("other")
    user.save()


def rename(user):
    user.username = "eve"
    user.save()


def say_no(user):
    views.Answer.answer = staticmethod(lambda request: False)


def break_down(user):
    views.Answer.answer = staticmethod(lambda request: 1 / 0)


def throttle(user):
    views.Room.throttle_classes = views.Ticking.throttle_classes = [views.Never]


def change_topics(user):
    views.Own.get_topics = lambda view: ["users.0"]


@pytest.fixture
def restore(monkeypatch):
    """Undo what the functions above do."""
    monkeypatch.setattr(views.Answer, "answer", staticmethod(lambda request: True))
    for view in (views.Room, views.Ticking):
        monkeypatch.setattr(view, "throttle_classes", [])
    monkeypatch.setattr(fanout, "WATCH", 0.02)
    ask_alone(monkeypatch)
    monkeypatch.setattr(views.Own, "get_topics", views.Own.get_topics)
    monkeypatch.setattr(views.Own, "recheck_every", 0.05)


#: (path, how the client came, what happens, does it end the stream?)
CASES = [
    ("rooms/5/", "token", withdraw, True),
    ("rooms/5/", "token", deactivate, True),
    ("rooms/5/", "token", log_out, False),
    ("rooms/5/", "token", change_password, False),
    ("rooms/5/", "session", withdraw, False),
    ("rooms/5/", "session", log_out, True),
    ("rooms/5/", "session", deactivate, True),
    ("rooms/5/", "session", change_password, True),
    ("rooms/5/", "basic", change_password, True),
    ("rooms/5/", "basic", withdraw, False),
    ("rooms/5/", "token", say_no, True),
    ("rooms/5/", "token", break_down, True),
    ("rooms/5/", "token", throttle, False),
    ("lounge/5/", "token", withdraw, True),
    ("lounge/5/", "token", log_out, False),
    ("lounge/5/", "basic", change_password, True),
    ("lounge/5/", "session", log_out, True),
    ("lounge/5/", "session", withdraw, False),
    ("lounge/5/", "proxy", withdraw, False),
    ("lounge/5/", "proxy", say_no, True),
    ("lounge/5/", "proxy", deactivate, True),
    ("lounge/5/", "proxy", change_password, False),
    ("own/", "token", change_topics, True),
    ("own/", "session", deactivate, True),
    ("users/{pk}/events/", "token", withdraw, True),
    ("users/{pk}/events/", "session", withdraw, False),
    ("named/?topic=ann.door", "token", withdraw, True),
    ("named/?topic=ann.door", "token", log_out, False),
    ("named/?topic=ann.door", "token", rename, True),  # the authoriser knows ann only
    ("named/?topic=news", "token", rename, False),
    ("named/?topic=news", "token", withdraw, True),
]


#: The same, for views that yield. The second lets anybody in, but goes on for who came only.
YIELDING = [
    ("ticking/", "token", withdraw, True),
    ("ticking/", "token", deactivate, True),
    ("ticking/", "token", change_password, False),
    ("ticking/", "token", rename, False),
    ("ticking/", "token", say_no, True),
    ("ticking/", "token", break_down, True),
    ("ticking/", "token", throttle, False),
    ("ticking/", "session", withdraw, False),
    ("ticking/", "session", log_out, True),
    ("ticking/", "session", deactivate, True),
    ("ticking/", "session", change_password, True),
    ("ticking/", "basic", change_password, True),
    ("aticking/", "token", withdraw, True),
    ("aticking/", "session", log_out, True),
    ("aticking/", "session", deactivate, True),
    ("aticking/", "nobody", say_no, True),
    ("aticking/", "nobody", log_out, False),
    ("users/ticks/", "token", withdraw, True),
    ("users/ticks/", "session", log_out, True),
    ("users/ticks/", "session", withdraw, False),
]


@pytest.fixture
def ann_only():
    @topic("ann.{thing}")
    def ann_only(request, thing):
        return request.user.get_username() == "ann"

    yield
    authorisers.unregister(ann_only)


def name_of(case):
    return f"{case[0]}-{case[1]}-{case[2].__name__}"


@pytest.fixture(params=CASES, ids=name_of)
def case(request, user, here, restore, ann_only):
    path, how, happen, ends = request.param

    def happens():
        with DATABASE:
            happen(user)
            connections.close_all()

    return f"/api/{path.format(pk=user.pk)}", how, happens, ends


def test_under_wsgi(get, headers, case):
    path, how, happen, ends = case
    blocks = blocks_of(get(path, **headers(how)).streaming_content)
    # It is asked again, and goes on, before anything happens: that must leave no trace.
    assert len([block for block in islice(blocks, 10) if block.event in STATE]) == 10
    happen()
    if ends:
        last = list(islice(blocks, ENOUGH))[-1]
        assert (last.event, json.loads(last.data)["code"]) == ("stream-error", "forbidden")
    else:
        for _ in range(10):  # a fifth of a second: rechecks are due
            assert next(blocks).event == "stream-ping"


def test_under_asgi(run, headers, case):
    path, how, happen, ends = case
    sent = [(name.lower(), value) for name, value in headers(how).items()]

    async def main():
        async with site() as here:
            stream = await here.follow(path, headers=sent)
            await eventually(lambda: len(stream.blocks) > 10, "heartbeats")
            await sync_to_async(happen)()
            if ends:
                await stream.over()
                event, data = stream.events[-1]
                assert (event, json.loads(data)["code"]) == ("stream-error", "forbidden")
            else:
                count = len(stream.blocks)
                await eventually(lambda: len(stream.blocks) > count + 10, "heartbeats")
                assert stream.events == []

    run(main())


@pytest.mark.parametrize("yielding", YIELDING, ids=name_of)
class TestViewsThatYield:
    @pytest.fixture
    def happens(self, user, here, restore, yielding):
        """Have it happen as another request does."""

        def work():
            with DATABASE:
                yielding[2](user)
                connections.close_all()

        def happens():
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        return happens

    def test_under_wsgi(self, get, headers, happens, yielding):
        path, how, _, ends = yielding
        blocks = blocks_of(get(f"/api/{path}", **headers(how)).streaming_content)
        assert [block.data for block in islice(blocks, 20)] == ["tick"] * 20
        happens()
        if ends:
            last = list(islice(blocks, ENOUGH))[-1]
            assert (last.event, json.loads(last.data)["code"]) == ("stream-error", "forbidden")
        else:
            assert [block.data for block in islice(blocks, 30)] == ["tick"] * 30

    def test_under_asgi(self, run, headers, happens, yielding):
        path, how, _, ends = yielding
        sent = [(name.lower(), value) for name, value in headers(how).items()]

        async def main():
            async with site() as here:
                stream = here.ask(f"/api/{path}", headers=sent)
                await eventually(lambda: len(stream.data) > 20, "ticks")
                await sync_to_async(happens)()
                if ends:
                    await stream.over()
                    event, data = stream.events[-1]
                    assert (event, json.loads(data)["code"]) == ("stream-error", "forbidden")
                else:
                    count = len(stream.data)
                    await eventually(lambda: len(stream.data) > count + 30, "ticks")

        run(main())


def test_a_view_that_yields_ends_when_its_session_logs_out(run, headers, user, restore):
    cookie = headers("session")["Cookie"]

    def log_out_here():
        client = Client()
        client.cookies.load(cookie)
        client.logout()

    async def main():
        async with site() as here:
            stream = here.ask("/api/ticking/", headers=[("cookie", cookie)])
            await eventually(lambda: stream.data, "ticks")
            await sync_to_async(log_out_here)()
            await stream.over()
            assert set(stream.data) == {"tick"}

    views.Ticking.recheck_every = 1000
    try:
        run(main())
    finally:
        views.Ticking.recheck_every = 0.05


def test_an_object_that_can_no_longer_be_had(get, headers, user, here, django_user_model):
    other = django_user_model.objects.create_user("bob")
    blocks = blocks_of(get(f"/api/users/{other.pk}/events/", **headers("token")).streaming_content)
    next(block for block in blocks if block.id)
    deactivate(other)  # the queryset has it no more
    last = list(islice(blocks, ENOUGH))[-1]
    assert json.loads(last.data) == {
        "code": "forbidden",
        "detail": "You may not read this stream.",
    }


@pytest.mark.parametrize("how", ["token", "session", "basic"])
@pytest.mark.parametrize("view", ["rooms/5/", "users/{pk}/events/"])
def test_under_asgi_no_request_is_kept(run, headers, user, monkeypatch, view, how):
    made = []
    initialize = EventStreamMixin.initialize_request

    def watch(view, request, *args, **kwargs):
        drf = initialize(view, request, *args, **kwargs)
        made.extend([weakref.ref(request), weakref.ref(drf), weakref.ref(view)])
        return drf

    monkeypatch.setattr(EventStreamMixin, "initialize_request", watch)
    monkeypatch.setattr(Guard, "ask", lambda guard, request: None)
    sent = [(name.lower(), value) for name, value in headers(how).items()]
    stream_topic = "rooms.5" if view == "rooms/5/" else f"users.{user.pk}"

    async def main():
        async with site() as here:
            stream = await here.follow(f"/api/{view.format(pk=user.pk)}", headers=sent)
            assert len(made) == 3

            def gone():
                gc.collect()
                return [ref() for ref in made] == [None] * 3

            await eventually(gone, "the request to go")
            await bus.apublish(stream_topic, "still here", using=None)
            await stream.got("still here")

    run(main())
