"""Who may read: authorisers, asked when a stream opens and again while it lives."""

from __future__ import annotations

import json

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied

from flosse_bus import bus, topic
from flosse_bus.permissions import IsAuthenticated
from flosse_bus.topics import authorisers
from flosse_bus.views import SubscribeView
from testproject.shop.models import Customer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def authorise():
    """Register authorisers for one test."""
    registered = []

    def authorise(template, answer):
        def function(request, **kwargs):
            return answer(request, **kwargs) if callable(answer) else answer

        registered.append(topic(template)(function))

    yield authorise
    for function in registered:
        authorisers.unregister(function)


@pytest.fixture
def user():
    return get_user_model().objects.create(username="ada")


def status(client, name):
    response = client.get("/events/", {"topic": name})
    if response.streaming:
        response.close()
    return response.status_code


def refuse(request, **kwargs):
    raise PermissionDenied


def explode(request, **kwargs):
    raise ZeroDivisionError("secret detail")


async def allow_async(request, **kwargs):
    return await get_user_model().objects.acount() >= 0


@pytest.mark.parametrize(
    ("answers", "allowed"),
    [
        ([], False),
        ([True], True),
        ([1], True),
        ([None], False),
        ([False, True], True),
        ([explode, True], True),
        ([explode], False),
        ([refuse, True], False),
        ([True, refuse], True),
        ([allow_async], True),
    ],
)
def test_one_yes_is_enough_and_a_veto_ends_it(client, authorise, answers, allowed):
    for answer in answers:
        authorise("x.{n}", answer)
    assert status(client, "x.1") == (200 if allowed else 403)


def test_an_authoriser_that_raises_is_logged_and_named(client, authorise, settings, caplog):
    settings.DEBUG = True
    authorise("x.{n}", explode)
    hint = client.get("/events/?topic=x.1").json()["hint"]
    assert "raised ZeroDivisionError" in hint
    assert "secret detail" not in hint
    assert "failed: access refused" in caplog.text


def test_placeholders_reach_the_authoriser(client, authorise):
    authorise("rooms.{room}.{kind}", lambda request, room, kind: (room, kind) == ("5", "chat"))
    assert status(client, "rooms.5.chat") == 200
    assert status(client, "rooms.6.chat") == 403


@pytest.mark.parametrize(
    ("template", "allowed", "refused"),
    [
        ("x.{n}", ["x.1"], ["x.*", "x.**", "*.1", "x.1.2"]),
        ("x.*", ["x.1", "x.*"], ["x.**", "x.1.2", "**"]),
        ("x.**", ["x.1", "x.*", "x.**", "x.1.*"], ["x", "**", "*.1"]),
    ],
)
def test_a_pattern_needs_permission_for_all_of_it(client, authorise, template, allowed, refused):
    authorise(template, True)
    assert [name for name in allowed if status(client, name) != 200] == []
    assert [name for name in refused if status(client, name) != 403] == []


def test_nobody_reads_what_is_published_with_a_value_that_holds_a_separator(client, authorise):
    """A name that could be cut in two ways is of neither team."""
    teams = []
    authorise("chat.{team}-{room}", lambda request, team, room: teams.append(team) or True)
    assert status(client, "chat.sales-5") == 200
    assert status(client, "chat.sales-board-5") == 403
    assert set(teams) == {"sales"}


def test_every_topic_must_be_allowed(client, authorise):
    authorise("x", True)
    assert client.get("/events/?topic=x&topic=y").status_code == 403


def test_the_request_is_the_reserved_name():
    with pytest.raises(ValueError, match="{request} is taken"):
        topic("x.{request}")(refuse)


def test_the_shop_lets_customers_read_their_own(client, user):
    mine, other = (Customer.objects.create(name=name) for name in "ab")
    Customer.objects.filter(pk=mine.pk).update(user=user)
    topics = [f"customers.{mine.pk}", f"customers.{other.pk}", "customers.x"]
    assert [status(client, name) for name in topics] == [403, 403, 403]
    client.force_login(user)
    assert [status(client, name) for name in topics] == [200, 403, 403]
    user.is_staff = True
    user.save()
    assert [status(client, name) for name in topics] == [200, 200, 200]


class TestWhileItLives:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch, configure):
        """Ask again before every block."""
        configure(HEARTBEAT=0.05)
        monkeypatch.setattr(SubscribeView, "recheck_every", 0.0)

    @pytest.fixture
    def private(self, client, user, authorise, subscribe):
        authorise(
            "private", lambda request: request.user.is_authenticated and request.user.is_active
        )
        client.force_login(user)
        stream = subscribe("topic=private")
        next(stream)
        bus.publish("private", "before")
        assert stream.event().data == "before"
        return stream

    @pytest.mark.parametrize("how", ["user", "session", "password"])
    def test_what_is_revoked_ends_and_nothing_more_gets_out(self, private, user, how):
        if how == "user":
            get_user_model().objects.update(is_active=False)
        elif how == "session":
            Session.objects.all().delete()
        else:
            user.set_password("new")
            user.save()
        bus.publish("private", "after")
        error = private.event()
        assert error.event == "stream-error"
        assert json.loads(error.data) == {
            "code": "forbidden",
            "detail": "You may not read these topics.",
        }
        assert list(private) == []
        assert b"after" not in private.raw
        assert len(bus.streams) == 0

    def test_async_authorisers_see_the_renewed_user(self, client, user, authorise, subscribe):
        async def allow(request):
            if hasattr(request, "auser"):
                return (await request.auser()).is_active
            return await sync_to_async(lambda: request.user.is_active)()

        authorise("private", allow)
        client.force_login(user)
        stream = subscribe("topic=private")
        next(stream)
        get_user_model().objects.update(is_active=False)
        assert stream.event().event == "stream-error"

    def test_public_streams_are_not_asked_again(self, subscribe, django_assert_num_queries):
        stream = subscribe("topic=news")
        next(stream)
        with django_assert_num_queries(0):
            bus.publish("news", 1)
            assert stream.event().data == "1"

    def test_permission_classes_are_asked_again(self, client, user, subscribe):
        client.force_login(user)
        stream = subscribe(path="/staff-news/")
        next(stream)
        Session.objects.all().delete()
        assert stream.event().event == "stream-error"
        assert IsAuthenticated().has_permission(object()) is False

    def test_logging_out_ends_the_streams_of_that_session(self, client, user, private, subscribe):
        public = subscribe("topic=news")
        next(public)
        client.logout()
        assert list(private) == []
        assert all(block.data is None for block in public)
        assert client.get("/events/?topic=private").status_code == 403

    def test_logging_out_before_the_stream_begins(self, client, user, authorise, subscribe):
        authorise("private", lambda request: request.user.is_authenticated)
        client.force_login(user)
        stream = subscribe("topic=private")
        client.logout()
        assert [block for block in stream if block.event == "message" and block.data] == []

    def test_asgi_asks_again_too(self, run, user, authorise, aclient):
        authorise("private", lambda request: request.user.is_active)

        async def main():
            await sync_to_async(aclient.force_login)(user)
            response = await aclient.get("/events/?topic=private")
            seen = b""
            async for chunk in response.streaming_content:
                seen += chunk
                await get_user_model().objects.aupdate(is_active=False)
            return seen

        assert b'"code": "forbidden"' in run(main())
