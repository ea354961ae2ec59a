"""Generator views: how they run, how they end, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading

import pytest

from flosse_bus import (
    bus,
    sse_stream,
)
from flosse_bus.transport import shutdown, slots
from tests.asgi import eventually, site
from tests.processes import wait_until

pytestmark = pytest.mark.django_db


# While it runs, under our ASGI application


@pytest.fixture
def told():
    """What a generator has told the test."""
    return []


def test_a_sync_generator_is_closed_where_it_has_yielded(run, at, told):
    @sse_stream
    def view(request):
        try:
            yield "one"
            told.append("went on")
            yield "two"
            told.append("went on")
        finally:
            told.append(threading.current_thread().name)

    async def main():
        at(view)
        async with site() as here:
            blocked = asyncio.Event()
            stream = here.ask("/s/")
            sent = stream.sent

            async def send(message):
                sent.append(message)
                if message.get("body") == b"data: two\n\n":
                    await blocked.wait()

            stream._send = send
            stream.task.cancel()
            stream.start(here.application)
            await eventually(lambda: len(stream.data) == 2, "both")
            assert told == ["went on"]  # not beyond what has been taken
            stream.leave()
            await eventually(lambda: len(told) == 2, "its finally")
            blocked.set()
            await stream.over()
        assert told == ["went on", "flosse_bus stream"]

    run(main())


def test_an_async_generator_is_closed_where_it_waits(run, at, told):
    @sse_stream
    async def view(request):
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            told.append("closed")

    async def main():
        at(view)
        async with site() as here:
            stream = here.ask("/s/")
            await stream.got("one")
            stream.leave()
            await stream.over()
            assert told == ["closed"]
            assert not stream.complete

    run(main())


@pytest.mark.parametrize("form", ["for", "yield from", "follow"])
def test_a_generator_that_waits_for_the_bus_is_closed(run, at, told, form):
    @sse_stream
    def view(request):
        try:
            yield "here"
            if form == "follow":
                yield from bus.follow("news", snapshot=lambda: ["now"])
            while True:  # a subscription that ends is no reason to end
                with bus.subscribe("news") as events:
                    if form == "yield from":
                        yield from events
                    for event in events:
                        yield (event.event, event.data)
        finally:
            told.append("closed")

    async def main():
        at(view)
        async with site() as here:
            stream = here.ask("/s/")
            await eventually(lambda: bus.hubs.streams == 1, "a subscription")
            await bus.apublish("news", {"n": 1}, event="e", using=None)
            await eventually(lambda: ("e", '{"n": 1}') in stream.events, "an event")
            stream.leave()
            await stream.over()
            await eventually(lambda: told == ["closed"] and not bus.hubs.streams, "its end")

    run(main())


@pytest.mark.parametrize("form", ["sync", "async"])
def test_the_server_stops(run, at, told, form):
    @sse_stream
    def view(request):
        with contextlib.ExitStack() as stack:
            stack.callback(told.append, "closed")
            yield "one"
            with bus.subscribe("news") as events:
                yield from events

    @sse_stream
    async def aview(request):
        with contextlib.ExitStack() as stack:
            stack.callback(told.append, "closed")
            yield "one"
            await asyncio.Event().wait()

    async def main():
        at(view if form == "sync" else aview)
        async with site() as here:
            stream = here.ask("/s/")
            await stream.got("one")
            shutdown.end_streams()
            await stream.over()
            assert stream.complete
            assert told == ["closed"]
            late = await here.get("/s/")  # begun after the server was told
            assert late.complete
            assert late.data == []

    run(main())


def test_a_generator_that_does_not_come_back_holds_nobody_up(run, at, told):
    gate = threading.Event()

    @sse_stream
    def view(request):
        yield "one"
        gate.wait(20)
        told.append("came back")

    async def main():
        at(view)
        async with site() as here:
            stream = here.ask("/s/")
            await stream.got("one")
            stream.leave()
            await stream.over()
            assert told == []
            assert slots.taken() == 1
            health = (await here.get("/events/health/")).json
            assert health["generators"] == {"streams": 0, "threads": 1}
            gate.set()

    run(main())
    wait_until(lambda: slots.taken() == 0, "its thread")


def test_threads_are_bounded(run, at, configure):
    configure(MAX_STREAM_THREADS=2)
    gate = threading.Event()

    @sse_stream
    def view(request):
        yield "one"
        gate.wait(20)

    async def main():
        at(view)
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


@pytest.mark.parametrize(("form", "data"), [("waits", ["one"]), ("yields", ["one", "more"])])
def test_an_async_generator_that_will_not_end(run, at, told, form, data):
    async def main():
        gate = asyncio.Event()

        @sse_stream
        async def view(request):
            yield "one"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append("no")
            if form == "waits":
                await gate.wait()
            yield "more"
            told.append("went on")

        at(view)
        async with site() as here:
            stream = here.ask("/s/")
            await stream.got("one")
            shutdown.end_streams()
            await stream.over()
            sent = list(stream.sent)
            gate.set()
            await asyncio.sleep(0)
        assert (told, stream.data) == (["no"], data)
        assert sent == stream.sent
        assert stream.complete

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


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_generator_that_fails_to_close(run, at, caplog, form):
    @sse_stream
    def view(request):
        try:
            yield "one"
            yield "two"
        finally:
            raise RuntimeError("in finally")

    @sse_stream
    async def aview(request):
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("in finally")

    async def main():
        at(view if form == "sync" else aview)
        async with site() as here:
            gate = asyncio.Event()
            stream = here.ask("/s/")
            await eventually(lambda: "one" in stream.data, "the first")
            stream.leave()
            gate.set()
            await stream.over()

    run(main())
    assert "failed while it was closed" in caplog.text or "has raised an exception" in caplog.text
