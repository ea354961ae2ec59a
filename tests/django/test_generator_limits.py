"""Generator views: what bounds them, and what is said and kept of them."""

from __future__ import annotations

import asyncio
import gc
import json
import threading

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.utils.functional import SimpleLazyObject

from flosse_bus import sse_stream
from tests.asgi import eventually, site

pytestmark = pytest.mark.django_db


def gated(at):
    """Put a view at /s/ that keeps its thread until what is returned is set."""
    gate = threading.Event()

    @sse_stream
    def view(request):
        yield "one"
        gate.wait(20)

    at(view)
    return gate


def test_threads_are_bounded(run, at, configure):
    configure(MAX_STREAM_THREADS=2, MAX_STREAM_THREADS_PER_CLIENT=2)
    gate = gated(at)

    async def main():
        async with site() as here:
            first, second = here.ask("/s/"), here.ask("/s/")
            await first.got("one")
            await second.got("one")
            refused = await here.get("/s/")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert refused.json == {
                "detail": "Too many open streams: MAX_STREAM_THREADS is reached.",
                "topics": [],
            }
            gate.set()
            await first.over()
            await second.over()
            await (await here.get("/s/")).got("one")

    run(main())


def test_one_visitor_leaves_threads_for_others(run, at, configure):
    """However many it asks for, somebody who has none yet finds one."""
    configure(MAX_STREAM_THREADS=8)
    gate = gated(at)

    async def main():
        async with site() as here:
            had, streams = [], []
            for visitor in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"):
                for _ in range(8):
                    stream = here.ask("/s/", address=visitor)
                    await eventually(lambda stream=stream: stream.status, "an answer")
                    if stream.status != 200:
                        break
                    await stream.got("one")
                    streams.append(stream)
                had.append(len(streams))
            assert had == [4, 6, 7, 8]
            assert stream.status == 503
            refused = here.ask("/s/", address="10.0.0.1")
            await refused.over()
            assert refused.status == 503  # for everybody
            gate.set()
            for stream in streams:
                await stream.over()

    run(main())


def test_the_share_of_a_visitor_is_a_setting_and_told(at, rf, configure, settings):
    configure(MAX_STREAM_THREADS=8, MAX_STREAM_THREADS_PER_CLIENT=1)
    settings.DEBUG = True
    view = sse_stream(heartbeat=5)(lambda request: iter("ab"))
    first = view(rf.get("/"))
    refused = view(rf.get("/"))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    body = json.loads(refused.content)
    assert body["detail"] == "Too many open streams: MAX_STREAM_THREADS_PER_CLIENT is reached."
    assert "REMOTE_ADDR" in body["hint"]
    other = view(rf.get("/", REMOTE_ADDR="10.0.0.1"))
    assert other.status_code == 200
    first.close()
    again = view(rf.get("/"))
    assert again.status_code == 200
    for response in (other, again):
        response.close()


def test_users_are_counted_each_where_the_view_knows_them(rf, configure, django_assert_num_queries):
    """Behind one address there may be many. Nobody is looked for twice."""
    configure(MAX_STREAM_THREADS=8, MAX_STREAM_THREADS_PER_CLIENT=1)

    def ask(user):
        request = rf.get("/")
        request.user = user
        with django_assert_num_queries(0):
            return sse_stream(heartbeat=5)(lambda request: iter("ab"))(request)

    def found(pk):
        user = SimpleLazyObject(lambda: get_user_model()(pk=pk))
        assert user.pk == pk
        return user

    unknown = SimpleLazyObject(AnonymousUser)
    responses = [ask(found(1)), ask(found(2)), ask(unknown), ask(found(1)), ask(unknown)]
    assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
    for response in responses:
        response.close()


def test_responses_that_are_never_sent_keep_no_thread(at, rf, configure):
    configure(MAX_STREAM_THREADS=1)
    view = sse_stream(heartbeat=5)(lambda request: iter("ab"))
    for _ in range(3):
        response = view(rf.get("/"))
        assert response.status_code == 200
        assert view(rf.get("/")).status_code == 503
        response.close()
        response = view(rf.get("/"))
        assert response.status_code == 200
        del response
        gc.collect()


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_heartbeat_delays_no_event(run, at, form):
    """Whatever comes between two events that come at once, it is no heartbeat."""
    gate = threading.Event()

    @sse_stream(heartbeat=0.02)
    def view(request):
        gate.wait(20)
        yield from range(200)

    @sse_stream(heartbeat=0.02)
    async def aview(request):
        while not gate.is_set():
            await asyncio.sleep(0.001)
        for number in range(200):
            yield number

    async def main():
        at(view if form == "sync" else aview)
        async with site() as here:
            stream = here.ask("/s/")
            await eventually(lambda: stream.pieces.count(b": heartbeat\n\n") > 2, "heartbeats")
            gate.set()
            await stream.got(*map(str, range(200)))

    run(main())


def test_a_client_that_takes_nothing_is_given_up(run, at, configure, told, caplog):
    configure(SEND_TIMEOUT=0.3)
    caplog.set_level("INFO", "flosse_bus")

    @sse_stream
    async def view(request):
        try:
            while True:
                yield "x"
        finally:
            told.append("closed")

    async def main():
        at(view)
        async with site() as here:

            async def send(message):
                if message.get("body"):
                    await asyncio.Event().wait()

            stream = here.ask("/s/", send=send)
            await stream.over()
            assert told == ["closed"]

    run(main())
    assert "(send timeout)" in caplog.messages[-1]


def test_a_stream_that_fails_says_so_in_the_log(run, at, caplog):
    caplog.set_level("INFO", "flosse_bus")

    @sse_stream
    def view(request):
        yield 1 / 0

    @sse_stream
    async def aview(request):
        yield 1 / 0

    async def main():
        async with site() as here:
            for each in (view, aview):
                at(each)
                await here.get("/s/")

    run(main())
    closed = [line for line in caplog.messages if line.startswith("stream closed")]
    assert ["(error)" in line for line in closed] == [True, True]
    assert caplog.text.count("ZeroDivisionError: division by zero") == 2


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_client_that_goes_with_the_head(run, at, told, form):
    @sse_stream
    def view(request):
        told.append("begun")
        yield from iter(int, 1)

    @sse_stream
    async def aview(request):
        told.append("begun")
        while True:
            yield "x"

    async def main():
        at(view if form == "sync" else aview)
        async with site() as here:

            async def send(message):
                raise OSError("gone")

            await here.ask("/s/", send=send).over()
        assert told == []

    run(main())


def test_what_a_stream_logs(run, at, caplog):
    caplog.set_level("INFO", "flosse_bus")

    @sse_stream
    def ticks(request):
        yield from "ab"

    async def main():
        at(ticks)
        async with site() as here:
            await here.get("/s/?password=secret")

    run(main())
    name = f"{__name__}.test_what_a_stream_logs.<locals>.ticks"
    assert caplog.messages[0] == f"stream opened by {name}"
    assert caplog.messages[1].startswith("stream closed after 0.")
    assert caplog.messages[1].endswith(f" s and 2 events (finished) by {name}")
    assert len(caplog.messages) == 2


def test_middleware_that_wraps_the_content_is_heeded(run, at, settings):
    settings.MIDDLEWARE = ["tests.lab.middleware.wrap"]

    @sse_stream
    async def aview(request):
        yield "a"
        yield "b"

    async def main():
        async with site() as here:
            for each in (sse_stream(lambda request: iter("ab")), aview):
                at(each)
                assert [e for e in (await here.get("/s/")).pieces if e][:2] == [
                    b"DATA: A\n\n",
                    b"DATA: B\n\n",
                ]

    run(main())
