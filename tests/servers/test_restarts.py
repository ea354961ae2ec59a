"""A deploy: streams end with their process, and their clients come back to the next one."""

from __future__ import annotations

import json
import signal

import psycopg
import pytest

from flosse_bus import bus
from tests.processes import wait_until
from tests.streams_client import Streams

pytestmark = pytest.mark.server


@pytest.fixture(params=["redis", "postgres"])
def broker(request):
    """The settings of a bus that outlives its server, the server's environment, and how to
    publish there from elsewhere."""
    if request.param == "redis":
        entry = request.getfixturevalue("shared_bus")
        return entry, {}, lambda data: bus.publish("load.x", data)
    uri = request.getfixturevalue("postgres_database")
    entry = {"BACKEND": "flosse_bus.backends.postgres.PostgresBackend"}

    def publish(data):
        with psycopg.connect(uri) as connection:
            connection.execute("SELECT flosse_bus_publish('load.x', %s)", [json.dumps(data)])

    return entry, {"TESTPROJECT_POSTGRES": uri}, publish


def test_who_returns_to_a_new_process_has_lost_nothing(serve, broker):
    entry, env, publish = broker
    server = serve("uvicorn", bus=entry, env=env)
    with Streams(server.port) as clients:
        before = clients.begin("load.x", count=500)
        publish(1)
        wait_until(lambda: all(stream.data == [1] for stream in before), "the first event")
        assert server.stop(signal.SIGTERM) < 10
        wait_until(lambda: {stream.end for stream in before} == {"clean"}, "the streams to end")
        for number in (2, 3, 4):
            publish(number)
        server = serve("uvicorn", bus=entry, env=env, port=server.port)
        back = clients.begin("load.x", count=500, after=[stream.last_id for stream in before])
        publish(5)
        wait_until(lambda: all(len(stream.events) >= 4 for stream in back), "all that was missed")
        missed = [("message", str(number)) for number in (2, 3, 4, 5)]
        assert [stream.events for stream in back] == [missed] * 500
