"""Generator views: how they are closed, whatever they do then."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from flosse_bus import bus, sse_stream
from flosse_bus.transport import shutdown, slots
from tests.asgi import eventually, site
from tests.processes import wait_until

pytestmark = pytest.mark.django_db


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

            async def send(message):
                await stream.take(message)
                if message.get("body") == b"data: two\n\n":
                    await blocked.wait()

            stream = here.ask("/s/", send=send)
            await eventually(lambda: len(stream.data) == 2, "both")
            assert told == ["went on"]  # not beyond what has been taken
            stream.leave()
            await eventually(lambda: len(told) == 2, "its finally")
            blocked.set()
            await stream.over()
        assert told == ["went on", "flosse_bus stream"]

    run(main())


def test_an_async_generator_is_closed_where_it_waits(run, streaming, told):
    @sse_stream
    async def view(request):
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            told.append("closed")

    async def main():
        async with streaming(view) as (_, stream):
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
def test_the_server_stops(run, streaming, told, form):
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
        async with streaming(view if form == "sync" else aview) as (here, stream):
            shutdown.end_streams()
            await stream.over()
            assert stream.complete
            assert told == ["closed"]
            late = await here.get("/s/")  # begun after the server was told
            assert late.complete
            assert late.data == []

    run(main())


def test_a_generator_that_does_not_come_back_holds_nobody_up(run, streaming, told):
    gate = threading.Event()

    @sse_stream
    def view(request):
        yield "one"
        gate.wait(20)
        told.append("came back")

    async def main():
        async with streaming(view) as (here, stream):
            stream.leave()
            await stream.over()
            assert told == []
            assert slots.taken() == 1
            health = (await here.get("/events/health/")).json
            assert health["generators"] == {"streams": 0, "threads": 1}
            gate.set()

    run(main())
    wait_until(lambda: slots.taken() == 0, "its thread")


@pytest.mark.parametrize(("form", "data"), [("waits", ["one"]), ("yields", ["one", "more"])])
def test_an_async_generator_that_will_not_end(run, streaming, told, form, data):
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

        async with streaming(view) as (_, stream):
            shutdown.end_streams()
            await stream.over()
            sent = list(stream.sent)
            gate.set()
            await asyncio.sleep(0)
        assert (told, stream.data) == (["no"], data)
        assert sent == stream.sent
        assert stream.complete

    run(main())


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("yields", "failed while it was closed"),
        ("waits for the bus", "has raised an exception"),
        ("async", "has raised an exception"),
    ],
)
def test_a_generator_that_fails_to_close(run, at, caplog, form, said):
    @sse_stream
    def view(request):
        try:
            yield "one"
            while form == "yields":
                time.sleep(0.005)
                yield "one"
            with bus.subscribe("news") as events:
                yield from events
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
        at(aview if form == "async" else view)
        async with site() as here:
            stream = here.ask("/s/")
            await eventually(lambda: stream.data, "the first")
            stream.leave()
            await stream.over()

    run(main())
    wait_until(lambda: said in caplog.text, said)
    assert "RuntimeError: in finally" in caplog.text
