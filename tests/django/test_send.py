"""What servers' ``send`` and ``receive`` may do while the hub streams, and clients meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading

import pytest

from flosse_bus import bus
from flosse_bus.transport import line
from flosse_bus.transport.outlet import PIECE
from tests.asgi import Exchange, eventually, site
from tests.lab.urls import Ask


async def publish(*data, topic="news"):
    for one in data:
        await bus.apublish(topic, one, using=None)


class Tap:
    """A ``send`` that waits while it is shut."""

    def __init__(self, exchange):
        self._exchange = exchange
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0

    def shut(self):
        self._open.clear()

    def open(self):
        self._open.set()

    async def __call__(self, message):
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
        await self._exchange.take(message)


async def slow(here, path="/events/?topic=news"):
    """Return a stream whose client has stopped reading, and its tap."""
    stream = Exchange(path)
    here.exchanges.append(stream)
    tap = stream._send = Tap(stream)
    await stream.start(here.application).begun()
    tap.shut()
    return stream, tap


def test_others_do_not_wait_for_one_that_does_not_read(run):
    async def main():
        async with site() as here:
            stream, tap = await slow(here)
            others = [await here.follow() for _ in range(3)]
            await publish(*range(5))
            for other in others:
                await other.got(*"01234")
            assert (stream.data, tap.waiting) == ([], 1)
            tap.open()
            await stream.got(*"01234")

    run(main())


@pytest.mark.parametrize("kept", [True, False])
def test_one_that_is_too_slow_catches_up_or_is_told(run, configure, kept):
    configure(MAX_PENDING=5, HISTORY_SIZE=100 if kept else 5)

    async def main():
        async with site() as here:
            stream, tap = await slow(here)
            other = await here.follow()
            for n in range(20):
                await publish(n)
                await other.got(*map(str, range(n + 1)))
            assert bus.hubs.counters["overflows"] == 1
            tap.open()
            if kept:
                await stream.got(*map(str, range(20)))
            else:
                await eventually(lambda: len(stream.events) > 1, "a reset")
                await publish("live")
                await eventually(lambda: stream.data[-1] == "live", "what comes after")
                kinds = [kind for kind, _ in stream.events]
                assert kinds == ["message", "stream-reset", "message"]

    run(main())


def test_one_that_takes_nothing_is_closed_after_a_while(run, configure, monkeypatch):
    configure(SEND_TIMEOUT=0.2)
    monkeypatch.setattr(line, "WATCH", 0.02)

    async def main():
        async with site() as here:
            reading = await here.follow()
            stream, _ = await slow(here)
            await publish(1)
            await stream.over()
            assert bus.hubs.counters["timeouts"] == 1
            assert (stream.data, stream.complete) == ([], False)
            await publish(2)
            await reading.got("1", "2")

    run(main())


def test_one_that_takes_nothing_does_not_hold_a_server_that_stops(run, monkeypatch):
    monkeypatch.setattr(line, "WATCH", 0.02)

    async def main():
        async with site() as here:
            reading = await here.follow()
            stream, _ = await slow(here)
            await publish(1)
            await reading.got("1")
            bus.hubs.end_all("shutdown")
            await reading.over()
            assert reading.complete
            await stream.over()
            assert not stream.complete

    run(main())


def test_big_events_go_in_pieces_between_which_others_have_their_turn(run, configure):
    configure(MAX_EVENT_SIZE=2_000_000)
    streams, order = {}, []

    def sender(name):
        async def send(message):
            if message["type"] == "http.response.body":
                order.append(name)
                if len(order) == 1:
                    bus.publish("orders", "quick", using=None)
            await streams[name].take(message)

        return send

    async def main():
        async with site() as here:
            for name, topic in (("big", "news"), ("small", "orders")):
                stream = streams[name] = Exchange(f"/events/?topic={topic}", send=sender(name))
                here.exchanges.append(stream)
                await stream.start(here.application).begun()
            order.clear()
            await publish("x" * 2_000_000)
            await streams["big"].got("x" * 2_000_000)
            assert max(map(len, streams["big"].pieces)) == PIECE
            assert (order.count("big"), order[0], order[-1]) == (31, "big", "big")
            assert streams["small"].data == ["quick"]

    run(main())


class Raw:
    """An awaitable that is no coroutine, as extension modules have them."""

    def __init__(self, exchange, message):
        self._exchange, self._message = exchange, message

    def __await__(self):
        yield  # "call me again", as asyncio.sleep(0) does
        self._exchange.sent.append(self._message)


@pytest.mark.parametrize("kind", ["coroutine", "awaitable", "future", "pending future"])
def test_any_awaitable_will_do(run, kind):
    async def main():
        loop = asyncio.get_running_loop()

        def send(message):
            if kind == "coroutine":
                return stream.take(message)
            if kind == "awaitable":
                return Raw(stream, message)
            stream.sent.append(message)
            future = loop.create_future()
            if kind == "future":
                future.set_result(None)
            else:
                loop.call_later(0.005, future.set_result, None)
            return future

        async with site() as here:
            stream = Exchange("/events/?topic=news", send=send)
            here.exchanges.append(stream)
            await stream.start(here.application).begun()
            await publish(*range(3))
            await stream.got(*"012")
            bus.hubs.end_all("shutdown")
            await stream.over()
            assert stream.complete

    run(main())


def test_send_runs_in_the_task_and_context_of_its_request(run):
    """So that middleware may time it out, or find what it has put there."""
    request = contextvars.ContextVar("request")
    seen = []

    async def main():
        async def send(message):
            seen.append((request.get(), asyncio.current_task() is not None))
            await asyncio.wait_for(stream.take(message), 10)

        async def application(scope, receive, send):
            request.set("mine")
            await here.application(scope, receive, send)

        async with site() as here:
            stream = Exchange("/events/?topic=news", send=send)
            here.exchanges.append(stream)
            await stream.start(application).begun()
            await publish(*range(3))
            await stream.got(*"012")
        assert set(seen) == {("mine", True)}

    run(main())


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_send_that_fails_ends_the_stream(run, at):
    async def main():
        async def send(message):
            if len(stream.sent) == at:
                raise OSError("the client has gone")
            await stream.take(message)

        async with site() as here:
            stream = Exchange("/events/?topic=news", send=send)
            here.exchanges.append(stream)
            stream.start(here.application)
            for n in range(3):
                await eventually(lambda n=n: stream.task.done() or len(stream.sent) > n + 1)
                await publish(n)
            await stream.over()
            assert len(stream.sent) == at

    run(main())


@pytest.fixture
def door(settings, monkeypatch):
    """An authoriser that waits: ``(has begun, may go on)``."""
    settings.ROOT_URLCONF = "tests.lab.urls"
    begun, go_on = threading.Event(), threading.Event()

    def wait(request):
        begun.set()
        return go_on.wait(20)

    monkeypatch.setattr(Ask, "answer", staticmethod(wait))
    yield begun, go_on
    go_on.set()


#: Django leaves the body of a request open whose task is cancelled.
leaves_body = pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")


@leaves_body
@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_clients_that_go_before_the_answer(run, door, how):
    begun, go_on = door

    async def main():
        async with site() as here:
            assert (await here.get("/events/?topic=news", gone=True)).sent in ([], [None])
            stream = here.ask("/asked/")
            await eventually(begun.is_set, "the view")
            if how == "leave":
                stream.leave()
            else:
                stream.task.cancel()
            await asyncio.sleep(0.01)
            go_on.set()
            await asyncio.wait([stream.task], timeout=20)
            assert stream.task.done()
            assert stream.sent == []
            await eventually(
                lambda: gc.collect() >= 0 and not len(bus.streams), "its place to be free"
            )

    run(main())
    gc.collect()


@leaves_body
@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_a_request_may_end_anywhere(run, how):
    """After so many rounds of the loop, which is in the view, the hub, the head or the stream."""

    async def main():
        async with site() as here:
            for rounds in [*range(0, 60, 2), *range(60, 600, 30)]:
                stream = here.ask("/events/?topic=news&topic=orders")
                for _ in range(rounds):
                    await asyncio.sleep(0)
                if how == "cancel":
                    stream.task.cancel()
                # Before Python 3.11 nobody can tell that Django has swallowed the former.
                if how == "leave" or sys.version_info < (3, 11):
                    stream.leave()
                await asyncio.wait([stream.task], timeout=20)
                assert stream.task.done(), rounds
                here.exchanges.remove(stream)
                del stream  # with what its exception knows
            await eventually(
                lambda: gc.collect() >= 0 and not len(bus.streams), "places to be free"
            )
            assert bus.hubs.streams == 0

    run(main())
    gc.collect()


def test_a_cancelled_stream_is_ended_as_its_client_expects(run):
    async def main():
        async with site() as here:
            stream = await here.follow()
            blocked, tap = await slow(here)
            await publish(1)
            await eventually(lambda: tap.waiting, "the other to block")
            for one in (stream, blocked):
                one.task.cancel()
                await asyncio.wait([one.task], timeout=20)
                assert one.task.cancelled()
            assert stream.complete
            assert not blocked.complete

    run(main())


def test_the_wait_for_the_client_to_go_is_not_cancelled(run):
    """To gunicorn's own ASGI worker that would mean that it has gone."""

    async def main():
        calls = []

        async def receive():
            calls.append("begun")
            try:
                return await Exchange.receive(stream)
            except asyncio.CancelledError:
                calls.append("cancelled")
                raise

        async with site() as here:
            stream = Exchange("/events/?topic=news")
            stream.receive = receive
            here.exchanges.append(stream)
            await stream.start(here.application).begun()
            await publish(1)
            await stream.got("1")
            assert calls == ["begun", "begun"]
            stream.leave()
            await stream.over()
            assert "cancelled" not in calls

    run(main())
