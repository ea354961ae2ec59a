"""@sse_stream and SSEView: what they may yield, who may read it, and how they are declared."""

from __future__ import annotations

import asyncio

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.test import RequestFactory

from flosse_bus import (
    SSEClientDisconnected,
    SSEEvent,
    SSEPermissionDenied,
    SSEView,
    sse_stream,
)
from flosse_bus.permissions import AllowAny, BaseSSEPermission, IsAuthenticated
from tests.asgi import site

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("closing_connections")]


@pytest.fixture(params=["wsgi", "asgi", "stock asgi"])
def read(request, client, run, at):
    """Return what a view at /s/ answers, whole, under each kind of handler."""

    def under_wsgi(path="/s/", **kwargs):
        response = client.get(path, **kwargs)
        body = b"".join(response) if response.streaming else response.content
        response.close()
        return response.status_code, body.decode()

    def under_asgi(path="/s/", **kwargs):
        async def main():
            application = ASGIHandler() if request.param == "stock asgi" else None
            async with site(application) as here:
                answer = await here.get(path, **kwargs)
                return answer.status, b"".join(p.get("body", b"") for p in answer.sent).decode()

        return run(main())

    return under_wsgi if request.param == "wsgi" else under_asgi


def both(sync):
    """Return the view, and what does the same as an async generator view."""

    @sse_stream
    async def view(request, *args, **kwargs):
        for item in sync(request, *args, **kwargs):
            yield item

    return [sse_stream(sync), view]


def yielding(request, pk=None):
    yield "text" if pk is None else f"pk={pk}"
    yield ("named", {"n": 1})
    yield ("with id", [1], 7)
    yield {"data": "x", "event": "e", "retry": 5}
    yield {"no": "d"}
    yield SSEEvent("bye", event="close", id="9")
    yield ""
    yield None


YIELDED = (
    'event: named\ndata: {"n": 1}\n\nid: 7\nevent: with id\ndata: [1]\n\n'
    'retry: 5\nevent: e\ndata: x\n\ndata: {"no": "d"}\n\nid: 9\nevent: close\ndata: bye\n\n'
    "data: \n\ndata: None\n\n"
)


@pytest.mark.parametrize("view", both(yielding), ids=["sync", "async"])
def test_all_yield_styles(read, at, view):
    at(view)
    assert read() == (200, "data: text\n\n" + YIELDED)
    assert read("/s/5/") == (200, "data: pk=5\n\n" + YIELDED)


def failing(request):
    yield "before"
    raise RuntimeError("secret")


class Mute(Exception):
    def __str__(self):
        raise LookupError


def failing_twice(request):
    yield "before"
    raise Mute


def unsendable(request):
    yield ("a", "b", "c", "d")
    yield SSEEvent("x", event="two\nlines")
    yield "after"


def leaving(request):
    yield "before"
    raise SSEClientDisconnected


FAILED = "event: error\ndata: The stream has failed.\n\n"


@pytest.mark.parametrize("form", [0, 1], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("view", "debug", "body"),
    [
        (failing, False, "data: before\n\n" + FAILED),
        (failing, True, "data: before\n\nevent: error\ndata: secret\n\n"),
        (failing_twice, True, "data: before\n\n" + FAILED),
        (unsendable, False, FAILED * 2 + "data: after\n\n"),
        (
            unsendable,
            True,
            "event: error\ndata: Tuple yields must be (event, data) or (event, data, id), got 4-tuple.\n\n"
            "event: error\ndata: event: 'two\\nlines' holds LF, which cannot be sent in it.\n\n"
            "data: after\n\n",
        ),
        (leaving, True, "data: before\n\n"),
        (lambda request: iter(()), False, ""),
    ],
)
def test_an_exception_is_an_event_after_what_came_before(
    read, at, settings, form, view, debug, body
):
    settings.DEBUG = debug
    at(both(view)[form])
    assert read() == (200, body)


class Log(BaseSSEPermission):
    asked = []
    answer = True

    def has_permission(self, request):
        self.asked.append(type(self).__name__)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class No(Log):
    answer = False


class Veto(Log):
    answer = SSEPermissionDenied()


class DjangosVeto(Log):
    answer = PermissionDenied()


class Broken(Log):
    answer = ValueError("secret")


class Later(Log):
    async def has_permission(self, request):
        await asyncio.sleep(0)
        return super().has_permission(request)


class Counting(Log):
    def has_permission(self, request):
        return super().has_permission(request) and get_user_model().objects.count() == 0


class ACounting(Log):
    async def has_permission(self, request):
        return Log.has_permission(self, request) and await get_user_model().objects.acount() == 0


@pytest.mark.parametrize("form", [0, 1], ids=["sync", "async"])
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("classes", "asked", "status"),
    [
        ([], [], 200),
        ([AllowAny], [], 200),
        ([Log, Log], ["Log", "Log"], 200),
        ([Log, No, Log], ["Log", "No"], 403),
        ([Later, Log], ["Later", "Log"], 200),
        ([Veto, Log], ["Veto"], 403),
        ([DjangosVeto, Log], ["DjangosVeto"], 403),
        ([Broken, Log], ["Broken"], 403),
        ([Counting, ACounting, Log], ["Counting", "ACounting", "Log"], 200),
        ([IsAuthenticated, Log], [], 403),
    ],
)
def test_permissions_are_asked_from_left_to_right(read, at, form, classes, asked, status):
    Log.asked.clear()
    begun = []

    def view(request):
        begun.append(True)
        yield "x"

    async def aview(request):
        begun.append(True)
        yield "x"

    at(sse_stream(permission_classes=classes)([view, aview][form]))
    answer = read()
    assert (answer[0], Log.asked) == (status, asked)
    assert begun == ([True] if status == 200 else [])
    assert "secret" not in answer[1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"retry": -1}, "retry"),
        ({"retry": True}, "retry"),
        ({"retry": "3000"}, "retry"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"heartbeat": float("inf")}, "heartbeat"),
        ({"heartbeat": "15"}, "heartbeat"),
        ({"permission_classes": IsAuthenticated}, "permission_classes"),
        ({"permission_classes": [IsAuthenticated()]}, "permission_classes"),
    ],
)
def test_options_that_can_never_work_are_refused_at_once(options, complaint):
    def stream(self, request):
        yield "x"

    with pytest.raises(ImproperlyConfigured, match=complaint):
        sse_stream(**options)(yielding)
    with pytest.raises(ImproperlyConfigured, match=complaint):
        type("View", (SSEView,), {"stream": stream}).as_view(**options)


def test_the_view_keeps_its_name_and_comes_with_and_without_parentheses():
    def view(request):
        """Say it."""
        yield "x"

    async def aview(request):
        """Say it."""
        yield "x"

    for function in (view, aview):
        for decorated in (
            sse_stream(function),
            sse_stream()(function),
            sse_stream(retry=1)(function),
        ):
            assert (decorated.__name__, decorated.__doc__) == (function.__name__, "Say it.")
            assert decorated.__wrapped__ is function
    assert asyncio.iscoroutinefunction(sse_stream(aview))


def test_what_is_no_generator(read, at):
    at(sse_stream(lambda request: HttpResponse("plain")))
    assert read() == (200, "plain")
    at(sse_stream(lambda request: ["a", "b"]))
    assert read() == (200, "data: a\n\ndata: b\n\n")
    with pytest.raises(TypeError, match="does it yield"):
        sse_stream(lambda request: None)(RequestFactory().get("/"))
    with pytest.raises(ImproperlyConfigured, match="expected a view"):
        sse_stream()("view")


@sse_stream(retry=5000)
async def afirst(request):
    yield "x"


def test_the_head_and_the_first_frame(read, at, client):
    at(sse_stream(retry=5000)(lambda request: iter("x")))
    assert read() == (200, "retry: 5000\ndata: x\n\n")
    at(afirst)
    assert read() == (200, "retry: 5000\ndata: x\n\n")
    head = client.head("/s/")
    assert (head.status_code, head.content) == (200, b"")
    assert head["Cache-Control"] == "no-cache, no-transform, private"
    for response in (head, client.get("/s/")):
        assert response["Content-Type"] == "text/event-stream; charset=utf-8"
        assert {"no-cache", "no-transform"} <= {*response["Cache-Control"].split(", ")}
        assert response["X-Accel-Buffering"] == "no"
        response.close()


def test_an_async_view_can_be_awaited_with_any_request(run):
    """As the tests of projects do."""

    async def main():
        response = await afirst(RequestFactory().get("/"))
        return [part async for part in response.streaming_content]

    assert run(main()) == [b"retry: 5000\ndata: x\n\n"]


class Numbers(SSEView):
    retry = 1000

    def stream(self, request, pk=0):
        yield f"{type(self).__name__} {pk}"
        yield self.request is request


class Private(LoginRequiredMixin, SSEView):
    login_url = "/login/"

    async def astream(self, request):
        yield (
            (await request.auser()).username if hasattr(request, "auser") else request.user.username
        )


class Guarded(SSEView):
    def get_permissions(self):
        return [No()] if "no" in self.request.GET else [Log()]

    def stream(self, request):
        yield "in"


def test_class_based_views(read, at):
    at(Numbers.as_view())
    assert read() == (200, "retry: 1000\ndata: Numbers 0\n\ndata: True\n\n")
    at(Numbers.as_view(retry=5))
    assert read("/s/3/") == (200, "retry: 5\ndata: Numbers 3\n\ndata: True\n\n")
    at(Guarded.as_view())
    assert read() == (200, "data: in\n\n")
    assert read("/s/?no")[0] == 403


@pytest.mark.django_db(transaction=True)
def test_class_based_views_compose_with_mixins(at, client, django_user_model):
    at(Private.as_view())
    assert client.get("/s/").status_code == 302
    client.force_login(django_user_model.objects.create(username="ada"))
    assert client.get("/s/").getvalue() == b"data: ada\n\n"
    assert client.post("/s/").status_code == 405
    assert client.options("/s/")["Allow"] == "GET, HEAD, OPTIONS"


def test_a_view_needs_one_method_that_streams():
    async def astream(self, request):
        yield "x"

    with pytest.raises(ImproperlyConfigured, match=r"either stream\(\) or astream\(\)"):
        SSEView.as_view()
    with pytest.raises(ImproperlyConfigured, match="and not both"):
        type("Both", (Numbers,), {"astream": astream}).as_view()
