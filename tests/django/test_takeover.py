"""``flosse_bus.asgi``: Django runs and ends its request, then the hub sends the stream."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_finished
from django.db import connections
from django.test import Client
from django.urls import path

from flosse_bus import bus, sse_stream
from flosse_bus.asgi import get_asgi_application
from flosse_bus.exceptions import BackendUnavailable
from tests.asgi import Exchange, eventually, site

LAB = "tests.lab.middleware"


def test_events_arrive_in_order_and_a_stream_resumes(run):
    async def main():
        async with site() as here:
            stream = await here.follow("/events/?topic=news&topic=orders")
            for n in range(20):
                await bus.apublish(("news", "orders")[n % 2], n, using=None)
            await stream.got(*map(str, range(20)))
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert [block.retry is not None for block in stream.blocks[:2]] == [True, False]
            stream.leave()
            await stream.over()
            missed = [await bus.apublish("news", n, using=None) for n in range(20, 23)]
            after = {"headers": [("last-event-id", stream.last_id)]}
            await (await here.follow(**after)).got("20", "21", "22")
            after = {"headers": [("last-event-id", missed[1].id)]}
            await (await here.follow(**after)).got("22")

    run(main())


def test_djangos_request_is_over_before_the_head_goes_out(run):
    order = []

    async def main():
        async with site() as here:

            async def send(message):
                order.append(message["type"])
                await stream.take(message)

            stream = Exchange("/events/?topic=news", send=send)
            here.exchanges.append(stream)
            await stream.start(here.application).begun()
            assert order[:2] == ["request finished", "http.response.start"]
            await bus.apublish("news", 1, using=None)
            await stream.got("1")
        assert order.count("request finished") == 1

    def finished(**kwargs):
        order.append("request finished")

    request_finished.connect(finished)
    try:
        run(main())
    finally:
        request_finished.disconnect(finished)


@pytest.mark.parametrize("atomic", [False, True])
def test_connections_are_given_back_and_threads_end(run, ask, file_database, atomic):
    file_database["ATOMIC_REQUESTS"] = atomic
    used = []

    def query(request):
        connection = connections["file"]
        connection.cursor().execute("SELECT 1")
        assert connection.in_atomic_block is atomic
        used.append(connection)
        return True

    async def main():
        async with site() as here:
            before = threading.active_count()
            streams = [here.ask("/asked/") for _ in range(50)]
            for stream in streams:
                await stream.begun()
            assert len(used) == 50
            assert [c for c in used if c.connection is not None] == []
            await eventually(lambda: threading.active_count() <= before, "threads to end")
            assert bus.hubs.streams == len(bus.streams) == 50

    ask(query)
    run(main())


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_generators_connections_are_closed_when_it_ends(run, settings, file_database, form):
    used = []

    def query():
        connections["file"].cursor().execute("SELECT 1")
        used.append(connections["file"])

    @sse_stream
    def view(request):
        query()
        yield used[-1].connection is not None

    @sse_stream
    async def aview(request):
        await sync_to_async(query)()
        yield used[-1].connection is not None

    class Urls:
        urlpatterns = [path("s/", view if form == "sync" else aview)]

    async def main():
        settings.ROOT_URLCONF = Urls
        async with site() as here:
            await (await here.get("/s/")).got("True")
            await eventually(lambda: used[0].connection is None, "the connection to be closed")

    run(main())


@pytest.mark.django_db(transaction=True)
def test_sessions_users_and_the_orm(run, closing_connections, django_user_model):
    user = django_user_model.objects.create(username="ada", is_staff=True)
    client = Client()
    client.force_login(user)
    cookie = ("cookie", f"sessionid={client.cookies['sessionid'].value}")

    async def main():
        async with site() as here:
            anonymous = await here.get("/staff-news/")
            assert (anonymous.status, anonymous.complete) == (403, True)
            stream = await here.follow("/staff-news/", headers=[cookie])
            await bus.apublish("staff.news", "welcome", using=None)
            await stream.got("welcome")
            # And it ends with the session, as every stream does.
            await sync_to_async(client.logout)()
            await stream.over()
            assert stream.complete

    run(main())


@pytest.mark.parametrize("order", [["from_sync", "from_async"], ["from_async", "from_sync"]])
def test_headers_and_cookies_of_middleware_arrive(run, settings, configure, order):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, *(f"{LAB}.{name}" for name in order)]
    configure(ALLOWED_ORIGINS=["https://app.example.com"])

    async def main():
        async with site() as here:
            headers = [("origin", "https://app.example.com")]
            stream = await here.follow(headers=headers)
            assert (stream.headers["x-sync"], stream.headers["x-async"]) == ("yes", "yes")
            assert stream.headers["access-control-allow-origin"] == "https://app.example.com"
            assert stream.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in stream.headers
            cookies = [value for name, value in stream.sent[0]["headers"] if name == b"set-cookie"]
            assert sorted(cookies) == [b"async=1; Path=/events/", b"sync=1; Path=/"]

    run(main())


def test_middleware_that_answers_instead_wins(run, settings, configure):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{LAB}.replace"]
    configure(MAX_STREAMS=1)

    async def main():
        async with site() as here:
            for _ in range(2):
                moved = await here.get("/events/?topic=news&replace=redirect")
                assert (moved.status, moved.headers["location"]) == (302, "/elsewhere/")
                refused = await here.get("/events/?topic=news&replace=403")
                assert (refused.status, refused.pieces) == (403, [b"no"])
            gc.collect()
            await here.follow()

    run(main())


def test_content_that_middleware_wraps_is_iterated_as_django_does(run, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{LAB}.wrap"]

    async def main():
        async with site() as here:
            stream = here.ask("/events/?topic=news")
            await eventually(lambda: b"RETRY:" in b"".join(stream.pieces), "the opening")
            await bus.apublish("news", "loud", using=None)
            await eventually(lambda: b"LOUD" in b"".join(stream.pieces), "the event")
            bus.hubs.end_all("shutdown")  # Django 4.2 does not tell that the client has gone
            await stream.over()

    run(main())


def test_what_is_no_stream_passes_untouched(run):
    async def main():
        async with site() as here:
            head = await here.get("/events/?topic=news", method="HEAD")
            assert (head.status, head.pieces) == (200, [b""])
            assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert (await here.get("/events/?topic=secret")).status == 403
            assert (await here.get("/events/health/")).json["status"] == "ok"
            assert len(bus.streams) == 0

    run(main())


def test_after_another_lifespan_streams_open_again(run):
    """A test or a notebook may run one server after another, in one loop or in several."""

    async def main():
        async with site() as here:
            for _ in range(2):
                inbox, sent = asyncio.Queue(), []

                async def send(message, sent=sent):
                    sent.append(message["type"])

                task = asyncio.create_task(here.application({"type": "lifespan"}, inbox.get, send))
                inbox.put_nowait({"type": "lifespan.startup"})
                await eventually(lambda sent=sent: sent, "startup")
                stream = await here.follow()
                assert not stream.complete
                inbox.put_nowait({"type": "lifespan.shutdown"})
                await task
                await eventually(lambda stream=stream: stream.complete, "the stream to end")

    run(main())
    run(main())


def test_lifespan_is_answered_and_ends_the_streams(run):
    async def main():
        sent, inbox = [], asyncio.Queue()

        async def send(message):
            sent.append(message["type"])

        async with site() as here:
            lifespan = here.application({"type": "lifespan"}, inbox.get, send)
            task = asyncio.create_task(lifespan)
            inbox.put_nowait({"type": "lifespan.startup"})
            await eventually(lambda: sent == ["lifespan.startup.complete"], "startup")
            stream = await here.follow()
            inbox.put_nowait({"type": "lifespan.shutdown"})
            await stream.over()
            assert stream.complete
            await task
            assert sent[1:] == ["lifespan.shutdown.complete"]

    run(main())


def test_a_websocket_is_refused_as_by_django(run):
    async def main():
        with pytest.raises(ValueError, match="Django can only handle ASGI/HTTP connections"):
            await get_asgi_application()({"type": "websocket", "headers": []}, None, None)

    run(main())


def test_a_backend_that_goes_down_in_between(run, settings, configure, monkeypatch):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{LAB}.from_sync"]
    configure(ALLOWED_ORIGINS=["https://app.example.com"])

    async def fail(*args):
        raise BackendUnavailable("down")

    async def main():
        async with site() as here:
            with monkeypatch.context() as patch:
                patch.setattr(bus.backend, "aread", fail)
                patch.setattr(bus.backend, "atail", fail)
                headers = [("origin", "https://app.example.com")]
                refused = await here.get("/events/?topic=news", headers=headers)
            assert (refused.status, refused.complete) == (503, True)
            assert refused.json["topics"] == ["news"]
            assert refused.headers["content-type"] == "application/json"
            assert refused.headers["retry-after"] == "5"
            assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
            assert refused.headers["set-cookie"] == "sync=1; Path=/"
            await here.follow()

    run(main())


def test_a_permission_that_is_withdrawn_ends_the_stream(run, ask):
    async def main():
        async with site() as here:
            stream = await here.follow("/asked-again/")
            await bus.apublish("private", 1, using=None)
            await stream.got("1")
            ask(lambda request: False)
            await asyncio.sleep(0.02)  # until the answer must be asked for again
            await bus.apublish("private", 2, using=None)
            await stream.over()
            assert stream.complete
            error = (
                "stream-error",
                '{"code": "forbidden", "detail": "You may not read this stream."}',
            )
            assert stream.events == [("message", "1"), error]

    ask(lambda request: True)
    run(main())
