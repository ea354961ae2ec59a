"""Streams of generator views whose clients may no longer read them.

Each case under our ASGI application, Django's own, and WSGI; for a generator and an async one; for
a client who came by a session, or by middleware.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time

import django
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
from django.contrib.auth.mixins import LoginRequiredMixin, PermissionRequiredMixin
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.core.asgi import get_asgi_application
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_page

from flosse_bus import SSEView, bus, sse_stream
from flosse_bus.permissions import BaseSSEPermission, IsAuthenticated
from flosse_bus.transport import fanout, opened
from flosse_bus.wire import Decoder
from tests.asgi import DEADLINE, eventually, site
from tests.databases import DATABASE, ask_alone
from tests.processes import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closing_connections"),
]

FORBIDDEN = {"code": "forbidden", "detail": "You may not read this stream."}


def by_header(get_response):
    """Middleware that takes the user from a header, as some do from a token."""

    def middleware(request):
        if name := request.headers.get("X-User"):
            user = request.user = User.objects.get(username=name)

            async def auser():
                return user

            request.auser = auser
        return get_response(request)

    return middleware


@pytest.fixture(autouse=True)
def often(settings, configure, monkeypatch):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.by_header"]
    configure(RECHECK_EVERY=0.1)
    monkeypatch.setattr(fanout, "WATCH", 0.02)
    ask_alone(monkeypatch)


@pytest.fixture
def user():
    user = User.objects.create_user("ann", password="x")
    user.user_permissions.add(Permission.objects.get(codename="view_order"))
    return user


@pytest.fixture
def cookie(user):
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


@pytest.fixture
def came(user, cookie):
    """Return the headers of a client."""
    return lambda how: {
        "session": {"cookie": f"sessionid={cookie}"},
        "header": {"x-user": "ann"},
        "nobody": {},
    }[how]


def ticks(request, **kwargs):
    while True:
        yield "tick"
        time.sleep(0.01)


async def aticks(request, **kwargs):
    while True:
        yield "tick"
        await asyncio.sleep(0.01)


FORMS = pytest.mark.parametrize("form", [ticks, aticks], ids=["sync", "async"])


def wrapped(view, form):
    """Return a view that yields, as Django's own decorators make it."""
    if django.VERSION < (5, 1) and form is aticks and view in WRAPPED:
        pytest.skip("these decorators take async views since Django 5.1")
    return VIEWS[view](form)


class Under:
    """Opens a stream at /s/ and has something happen: return what has come until the end."""

    def __init__(self, run):
        self.run = run

    def asgi(self, headers, happens, application=None):
        async def main():
            async with site(application) as here:
                stream = here.ask("/s/", headers=headers.items())
                await eventually(lambda: stream.data.count("tick") > 20, "ticks")
                await sync_to_async(happens)()
                await stream.over()
                assert stream.complete
                return stream.events

        return self.run(main())

    def stock(self, headers, happens):
        return self.asgi(headers, happens, get_asgi_application())

    def wsgi(self, headers, happens):
        decoder, events = Decoder(), []
        response = Client().get("/s/", headers=headers)
        end = time.monotonic() + DEADLINE
        for piece in response.streaming_content:
            events += [(block.event, block.data) for block in decoder.feed(piece)]
            if happens is not None and len(events) > 20:
                happens()
                happens = None
            assert time.monotonic() < end, "it goes on"
        response.close()
        return events


@pytest.fixture(params=["asgi", "stock", "wsgi"])
def under(request, run):
    return getattr(Under(run), request.param)


def in_thread(function):
    """Do something as another request does, and leave nothing of it in this thread."""

    def happens(user, cookie):
        def work():
            with DATABASE:
                try:
                    function(user, cookie)
                finally:
                    connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    happens.__name__ = function.__name__
    return happens


@in_thread
def log_out(user, cookie):
    client = Client()
    client.cookies["sessionid"] = cookie
    client.logout()


@in_thread
def end_session(user, cookie):
    Session.objects.all().delete()


@in_thread
def deactivate(user, cookie):
    User.objects.update(is_active=False)


@in_thread
def delete(user, cookie):
    User.objects.all().delete()


@in_thread
def change_password(user, cookie):
    user.set_password("y")
    user.save()


@in_thread
def strip(user, cookie):
    user.user_permissions.clear()


@in_thread
def rename(user, cookie):
    User.objects.update(first_name="Anna")


class MayView(BaseSSEPermission):
    def has_permission(self, request):
        return request.user.has_perm("shop.view_order")


class AMayView(BaseSSEPermission):
    async def has_permission(self, request):
        return await sync_to_async(lambda: request.user.has_perm("shop.view_order"))()


def as_class(form, *mixins, **options):
    name = "astream" if form is aticks else "stream"

    def stream(self, request, **kwargs):
        return form(request)

    return type("View", (*mixins, SSEView), {name: stream, **options}).as_view()


#: Of these, those that wrap the view itself.
WRAPPED = ("login_required", "permission_required", "cached")
#: How the view says who may read it.
VIEWS = {
    "plain": sse_stream,
    "heartbeat": sse_stream(heartbeat=5),
    "login_required": lambda form: login_required(sse_stream(form)),
    "login_required below": lambda form: sse_stream(login_required(form)),
    "permission_required": lambda form: permission_required("shop.view_order")(sse_stream(form)),
    "permission_required below": lambda form: sse_stream(
        permission_required("shop.view_order", raise_exception=True)(form)
    ),
    "cached": lambda form: cache_page(60)(
        user_passes_test(lambda user: user.has_perm("shop.view_order"))(sse_stream(form))
    ),
    "permission class": sse_stream(permission_classes=[MayView]),
    "async permission class": sse_stream(permission_classes=[AMayView], heartbeat=5),
    "class": as_class,
    "LoginRequiredMixin": lambda form: as_class(form, LoginRequiredMixin),
    "PermissionRequiredMixin": lambda form: as_class(
        form, PermissionRequiredMixin, permission_required="shop.view_order"
    ),
    "permission class of a class": lambda form: as_class(form, permission_classes=[MayView]),
    "method_decorator": lambda form: method_decorator(
        permission_required("shop.view_order"), name="dispatch"
    )(
        type("View", (SSEView,), {"astream" if form is aticks else "stream": method(form)})
    ).as_view(),
}


def method(form):
    return lambda self, request, **kwargs: form(request)


@FORMS
@pytest.mark.parametrize(
    ("view", "way", "happens"),
    [
        ("plain", "session", log_out),
        ("plain", "session", end_session),
        ("plain", "session", deactivate),
        ("plain", "session", delete),
        ("plain", "session", change_password),
        ("plain", "header", deactivate),
        ("plain", "header", delete),
        ("heartbeat", "session", deactivate),
        ("heartbeat", "session", log_out),
        ("login_required", "session", end_session),
        ("login_required below", "session", end_session),
        ("login_required", "header", delete),
        ("permission_required", "session", strip),
        ("permission_required", "header", strip),
        ("permission_required below", "session", strip),
        ("cached", "session", strip),
        ("permission class", "session", strip),
        ("permission class", "header", strip),
        ("async permission class", "session", strip),
        ("class", "session", deactivate),
        ("class", "session", log_out),
        ("LoginRequiredMixin", "session", end_session),
        ("PermissionRequiredMixin", "session", strip),
        ("permission class of a class", "header", strip),
        ("method_decorator", "session", strip),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_who_may_read_it_no_more_does_not(at, under, form, view, way, happens, came, user, cookie):
    at(wrapped(view, form))
    events = under(came(way), lambda: happens(user, cookie))
    last = events.pop()
    if happens is log_out:  # whoever comes back is asked anew
        assert last == ("message", "tick")
    else:
        assert (last[0], json.loads(last[1])) == ("stream-error", FORBIDDEN)
    assert set(events) == {("message", "tick")}


@FORMS
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("way", ["session", "header"])
def test_who_may_goes_on_reading(at, run, form, view, way, came, user, cookie, monkeypatch):
    answers = []
    recheck = fanout.Rechecks._announce
    monkeypatch.setattr(
        fanout.Rechecks,
        "_announce",
        lambda self, stream, answer: (answers.append(answer), recheck(self, stream, answer)),
    )

    async def main():
        async with site() as here:
            stream = here.ask("/s/", headers=came(way).items())
            await eventually(lambda: len(answers) > 2, "some answers")
            await sync_to_async(rename)(user, cookie)
            count = len(answers)
            await eventually(lambda: len(answers) > count + 2, "more answers")
            count = len(stream.data)
            await eventually(lambda: len(stream.data) > count + 5, "ticks")
            assert not stream.task.done()
        assert set(answers) == {None}

    at(wrapped(view, form))
    run(main())


@FORMS
def test_nobody_is_not_asked_about(at, run, form, came, django_assert_num_queries):
    at(sse_stream(form))

    async def main():
        async with site() as here:
            stream = here.ask("/s/", headers=came("nobody").items())
            await eventually(lambda: len(stream.data) > 20, "ticks")
            assert fanout.fanouts.here().guarded == set()
            assert not opened._of_sessions

    with django_assert_num_queries(0):
        run(main())


@FORMS
def test_a_silent_one_ends_too(at, run, form, came, user, cookie):
    gate = threading.Event()

    def silent(request):
        yield "tick"
        gate.wait(DEADLINE)

    async def asilent(request):
        yield "tick"
        await asyncio.Event().wait()

    async def main():
        async with site() as here:
            try:
                stream = here.ask("/s/", headers=came("session").items())
                await stream.got("tick")
                await sync_to_async(deactivate)(user, cookie)
                await stream.over()
                assert [event for event, _ in stream.events] == ["message", "stream-error"]
            finally:
                gate.set()

    at(sse_stream(silent if form is ticks else asilent))
    run(main())


def test_one_that_waits_for_the_bus_ends_too(at, under, came, user, cookie):
    def follow(request):
        for number in range(30):
            yield "tick" if number < 29 else "done"
        with bus.subscribe("private") as events:
            yield from events

    at(
        sse_stream(
            follow,
        )
    )
    assert under(came("session"), lambda: log_out(user, cookie))[:21] == [("message", "tick")] * 21


@FORMS
def test_logging_out_before_it_begins(at, form, came, user, cookie):
    at(sse_stream(form))
    response = Client().get("/s/", headers=came("session"))
    log_out(user, cookie)
    assert list(response.streaming_content) == []
    response.close()
    assert not opened._of_sessions


def test_only_that_session_ends(at, run, came, user, cookie):
    at(sse_stream(aticks))
    other = Client()
    other.force_login(user)

    async def main():
        async with site() as here:
            mine = here.ask("/s/", headers=came("session").items())
            theirs = here.ask(
                "/s/", headers=[("cookie", f"sessionid={other.cookies['sessionid'].value}")]
            )
            for stream in (mine, theirs):
                await eventually(lambda stream=stream: stream.data, "ticks")
            await sync_to_async(log_out)(user, cookie)
            await mine.over()
            count = len(theirs.data)
            await eventually(lambda: len(theirs.data) > count + 5, "ticks")

    run(main())


@FORMS
def test_nothing_is_sent_on_an_answer_that_is_too_old(at, under, form, came, user, cookie):
    """While the threads that ask are busy, what is yielded waits."""
    shut, asked, door = [], threading.Event(), threading.Event()

    class Door(BaseSSEPermission):
        def has_permission(self, request):
            if shut:
                asked.set()
                assert door.wait(DEADLINE)
                return False
            return True

    def happens():
        shut.append(True)

        def wait():
            assert asked.wait(DEADLINE)
            threading.Timer(0.4, door.set).start()  # four times RECHECK_EVERY, some 40 ticks

        threading.Thread(target=wait).start()

    at(sse_stream(permission_classes=[Door])(form))
    events = under(came("session"), happens)
    assert events.pop()[0] == "stream-error"
    assert len(events) < 45


def test_recheck_every_of_a_view_comes_first(at, run, came, configure, user, cookie):
    configure(RECHECK_EVERY=1000)
    at(sse_stream(recheck_every=0.1)(aticks))
    assert (
        Under(run).asgi(came("session"), lambda: deactivate(user, cookie))[-1][0] == "stream-error"
    )


def test_the_view_itself_is_not_run_again(at, run, came, user, monkeypatch):
    """Unless a generator is all that comes of that."""
    begun = []

    @login_required
    def start(request):
        begun.append(request)

        @sse_stream(permission_classes=[IsAuthenticated])
        def stream(request):
            return ticks(request)

        return stream(request)

    def dispatch(request):
        begun.append(request)
        return sse_stream(ticks)(request)

    @sse_stream
    def returns(request):
        begun.append(request)
        return aticks(request)

    for view in (start, dispatch, returns):
        begun.clear()
        at(view)

        async def main():
            async with site() as here:
                asked = []
                monkeypatch.setattr(
                    fanout.Rechecks, "_announce", announcing(asked, fanout.Rechecks._announce)
                )
                stream = here.ask("/s/", headers=came("session").items())
                await eventually(lambda: len(asked) > 3, "answers")
                assert not stream.task.done()

        with monkeypatch.context():
            run(main())
        assert len(begun) == 1


def announcing(asked, announce):
    def _announce(self, stream, answer):
        asked.append(answer)
        announce(self, stream, answer)

    return _announce


def test_a_body_is_there_when_it_is_asked_again(at, run, came):
    seen = []

    class Asks(BaseSSEPermission):
        def has_permission(self, request):
            seen.append(request.POST.get("question"))
            return True

    view = at(sse_stream(permission_classes=[Asks])(aticks))
    view.csrf_exempt = True  # the decorator takes async views since Django 5.0

    async def main():
        async with site() as here:
            form = ("content-type", "application/x-www-form-urlencoded")
            exchange = here.ask(
                "/s/",
                method="POST",
                headers=[*came("header").items(), form, ("content-length", "0")],
            )
            await eventually(lambda: len(seen) > 3, "answers")
            assert not exchange.task.done()

    run(main())
    assert len(set(seen)) == 1


def test_an_authoriser_that_fails_ends_it(at, under, came, caplog):
    broken = []

    class Fails(BaseSSEPermission):
        def has_permission(self, request):
            if broken:
                raise SystemExit("enough")
            return True

    at(sse_stream(permission_classes=[Fails])(aticks))
    assert set(under(came("session"), lambda: broken.append(1))) == {("message", "tick")}
    assert "could not be checked" in caplog.text


def test_nothing_is_left_of_those_that_have_ended(at, run, came):
    at(sse_stream(aticks))

    async def main():
        async with site() as here:
            streams = [here.ask("/s/", headers=came("session").items()) for _ in range(5)]
            for stream in streams:
                await eventually(lambda stream=stream: stream.data, "ticks")
            assert len(fanout.fanouts.here().guarded) == 5
            for stream in streams:
                stream.leave()
                await stream.over()
            await eventually(lambda: not fanout.fanouts.here().guarded, "them to be forgotten")
        wait_until(lambda: not opened._of_sessions, "them to be forgotten")

    run(main())


def test_a_response_is_no_stream(at, came):
    at(sse_stream(lambda request: HttpResponse("no")))
    assert Client().get("/s/", headers=came("session")).content == b"no"
