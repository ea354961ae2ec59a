"""Whatever ends a stream is what the log says has ended it: once, and nothing of who read what."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import pytest
from asgiref.sync import sync_to_async

from flosse_bus import bus, buses, topic
from flosse_bus.access import Access
from flosse_bus.topics import authorisers
from flosse_bus.transport import line, outlet
from tests.asgi import Exchange, eventually, site

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "s3cr3t"
CLOSED = re.compile(r"stream closed after \d+\.\d s and (\d+) events \((.+)\) on (.+)")


@pytest.fixture
def private(request):
    """A topic of which a test can take the permission away, or break the authoriser."""

    class Private:
        answer = True

        def __call__(self, request):
            return self.answer

    private = Private()
    function = topic("private")(lambda request: private(request))
    yield private
    authorisers.unregister(function)


@pytest.fixture
def session(client, settings):
    """The headers of the client's session, which needs no database."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    session = client.session
    session["name"] = SECRET
    session.save()
    return [("cookie", f"sessionid={client.cookies['sessionid'].value}")]


@pytest.fixture
def endings(caplog):
    """The lines that say how streams have ended, as (events, reason, topics)."""
    caplog.set_level("INFO", logger="flosse_bus")

    def endings():
        lines = [r.getMessage() for r in caplog.records if r.name == "flosse_bus"]
        assert not any(SECRET in line for line in lines)
        found = [match.groups() for line in lines if (match := CLOSED.fullmatch(line))]
        assert len(found) == sum(line.startswith("stream opened on ") for line in lines)
        return found

    return endings


def impatient(monkeypatch):
    """Ask for permission again before each event."""
    monkeypatch.setattr(Access, "overdue", property(lambda self: not self.always))


def fail(self):
    raise ConnectionError("the database is away")


# What ends a stream under flosse_bus.asgi. Each is given the stream, and what a test can change.


async def leaves(stream, **kwargs):
    stream.leave()


async def stops(stream, **kwargs):
    bus.hubs.end_all("shutdown")


async def closes_the_bus(stream, **kwargs):
    await sync_to_async(buses.close_all)()


async def logs_out(stream, *, client, **kwargs):
    await sync_to_async(client.logout)()


async def withdraws(stream, *, private, monkeypatch, **kwargs):
    private.answer = False
    impatient(monkeypatch)
    await bus.apublish("private", SECRET, using=None)


async def breaks(stream, *, monkeypatch, **kwargs):
    monkeypatch.setattr(Access, "recheck", fail)
    impatient(monkeypatch)
    await bus.apublish("private", SECRET, using=None)


async def takes_nothing(stream, *, monkeypatch, **kwargs):
    stream.stuck = True
    await bus.apublish("private", SECRET, using=None)


async def cannot_be_reached(stream, **kwargs):
    stream.broken = True
    await bus.apublish("private", SECRET, using=None)


async def cancels(stream, **kwargs):
    stream.task.cancel()


class Client(Exchange):
    """One that may stop taking, and whose connection may break."""

    stuck = broken = False

    def __init__(self, path, **kwargs):
        super().__init__(path, send=self.send, **kwargs)

    async def send(self, message):
        if self.broken:
            raise OSError("broken")
        if self.stuck:
            await asyncio.Event().wait()
        await self.take(message)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (leaves, "client gone"),
        (stops, "shutdown"),
        (closes_the_bus, "bus closed"),
        (logs_out, "logged out"),
        (withdraws, "access withdrawn"),
        (breaks, "error"),
        (takes_nothing, "send timeout"),
        (cannot_be_reached, "client gone"),
        (cancels, "cancelled"),
    ],
)
def test_under_asgi(
    run, endings, client, session, private, configure, monkeypatch, act, reason, caplog
):
    configure(SEND_TIMEOUT=0.05)
    monkeypatch.setattr(line, "WATCH", 0.01)
    monkeypatch.setattr(outlet, "FAREWELL", 0.01)

    async def main():
        async with site() as here:
            stream = Client(f"/events/?topic=private&last_event_id={SECRET}", headers=session)
            here.exchanges.append(stream)
            await stream.start(here.application).begun()
            await act(stream, client=client, private=private, monkeypatch=monkeypatch)
            await asyncio.wait([stream.task], timeout=20)
            await eventually(lambda: len(bus.streams) == 0, "its place to be free")
            assert [(why, names) for _, why, names in endings()] == [(reason, "private")]

    run(main())
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == (act is breaks)


def test_a_stream_that_is_to_end_before_it_has_begun_says_why(run, endings, private):
    """Who logs out while a stream of his is being opened."""

    async def main():
        async with site() as here:
            bus.hubs.here()
            open_, opened = bus.hubs.here().open, asyncio.Event()

            async def slow(*args, **kwargs):
                subscription = await open_(*args, **kwargs)
                for place in bus.streams.of_session(None):
                    place.withdraw("logged out")
                opened.set()
                return subscription

            bus.hubs.here().open = slow
            stream = here.ask("/events/?topic=private")
            await stream.over()
            assert opened.is_set()
            assert [why for _, why, _ in endings()] == ["logged out"]

    run(main())


# Under Django's own handlers.


def read_all(stream):
    return b"".join(stream.response.streaming_content)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda stream, **kw: stream.response.close(), "client gone"),
        (lambda stream, **kw: bus.hubs.end_all("shutdown"), "shutdown"),
        (lambda stream, **kw: bus.close(), "bus closed"),
        (lambda stream, **kw: kw["client"].logout(), "logged out"),
        (lambda stream, **kw: setattr(kw["private"], "answer", False), "access withdrawn"),
        (lambda stream, **kw: None, "error"),
    ],
)
def test_under_wsgi(subscribe, client, session, private, endings, monkeypatch, act, reason):
    stream = subscribe("topic=private")
    next(stream)
    act(stream, client=client, private=private)
    if reason == "error":
        monkeypatch.setattr(Access, "recheck", fail)
    if reason in ("error", "access withdrawn"):
        impatient(monkeypatch)
        bus.publish("private", SECRET, using=None)
    if reason == "error":
        with pytest.raises(ConnectionError):
            read_all(stream)
    elif reason != "client gone":
        read_all(stream)
    assert [(why, names) for _, why, names in endings()] == [(reason, "private")]


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("leaves", "client gone"),
        ("stops", "shutdown"),
        ("logs out", "logged out"),
        ("withdraws", "access withdrawn"),
        ("breaks", "error"),
        ("lives long", "lifetime"),
    ],
)
def test_under_djangos_asgi_handler(
    run, aclient, session, private, endings, monkeypatch, client, act, reason
):
    async def main():
        aclient.cookies = client.cookies
        response = await aclient.get("/events/?topic=private")
        chunks = aiter(response.streaming_content)
        await anext(chunks)
        if act == "leaves":
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            waiting.cancel()  # which is how Django tells
            await asyncio.wait([waiting])
        elif act == "stops":
            bus.hubs.end_all("shutdown")
        elif act == "logs out":
            await sync_to_async(client.logout)()
        elif act == "lives long":
            response.stream.lifetime = 0.0
            await bus.apublish("private", 1, using=None)
        elif act == "withdraws":
            await withdraws(None, private=private, monkeypatch=monkeypatch)
        else:
            await breaks(None, monkeypatch=monkeypatch)
        with pytest.raises(ConnectionError) if act == "breaks" else contextlib.nullcontext():
            [chunk async for chunk in chunks]
        assert [(why, names) for _, why, names in endings()] == [(reason, "private")]
        await bus.hubs.here().aclose()

    run(main())


def test_events_and_seconds_are_counted(subscribe, endings, caplog):
    begin = time.monotonic()
    stream = subscribe("topic=news&topic=orders")
    next(stream)
    for number in range(3):
        bus.publish("news", number)
    for _ in range(3):
        stream.event()
    stream.response.close()
    assert endings() == [("3", "client gone", "news, orders")]
    [text] = [r.getMessage() for r in caplog.records if "stream closed" in r.getMessage()]
    assert float(text.split()[3]) <= time.monotonic() - begin + 0.05
