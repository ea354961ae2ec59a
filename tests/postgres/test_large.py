"""Events that take long to transfer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from django.db import connections

from flosse_bus.test import Inbox
from tests.postgres import database


@pytest.fixture
def slow_uri(tables_uri, postgres_server):
    """The URI of the shared database, over a link that takes its time."""
    ends, threads = [socket.create_server(("127.0.0.1", 0))], []
    port = ends[0].getsockname()[1]

    def start(work, *args):
        threads.append(threading.Thread(target=work, args=args, daemon=True))
        threads[-1].start()

    def accept():
        with contextlib.suppress(OSError):  # it is shut down in the end
            while True:
                client, _ = ends[0].accept()
                upstream = socket.create_connection(("127.0.0.1", postgres_server.port))
                ends.extend((client, upstream))
                start(_pump, client, upstream, 0)
                start(_pump, upstream, client, 0.05)

    start(accept)
    yield tables_uri.replace(f":{postgres_server.port}/", f":{port}/")
    for end in [*ends]:
        _shut(end)
    for thread in [*threads]:
        thread.join(20)
    for end in ends:
        end.close()


def _pump(source, target, pause):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
            if len(data) > 10_000:
                time.sleep(pause)
    _shut(source)
    _shut(target)


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _publish_by_sql(using, bus):
    statement = "SELECT flosse_bus_publish('a', to_jsonb(repeat('x', 4000000)), NULL, %s)"
    database.sql(using, statement, bus)
    connections[using].close()


def test_an_event_that_takes_long_to_transfer_arrives(pg, slow_uri, run, monkeypatch):
    for module in ("link", "pool", "listener"):
        monkeypatch.setattr(f"flosse_bus.backends.postgres.{module}.PATIENCE", 1.0)

    async def main(backend):
        inbox = Inbox(backend.listen())
        await inbox.listener.watch(["a"])
        task = asyncio.create_task(inbox.collect())
        await asyncio.to_thread(_publish_by_sql, pg, backend.config.key_prefix)
        begin = time.monotonic()
        await inbox.until(lambda: inbox.records or task.done())
        assert time.monotonic() - begin > 1
        assert [record.size for record in inbox.records] == [4_000_000]
        history = (await backend.aread(["a"])).topics["a"]  # as a repair does
        assert list(history.records) == inbox.records
        await inbox.listener.aclose()
        await task

    with database.alias(slow_uri, "slow") as using, database.backend(using) as backend:
        run(main(backend))
