"""Generator streams of users who log out or are deactivated, on real servers with one process and two."""

from __future__ import annotations

import sqlite3

import pytest

from tests.processes import Project, wait_until
from tests.streams_client import Streams

pytestmark = pytest.mark.server

LAB = {"DJANGO_SETTINGS_MODULE": "tests.lab.settings"}
STOCK = [
    part.replace("testproject.asgi", "tests.lab.stock") for part in Project.COMMANDS["uvicorn"]
]
TWO = ["--workers=2"]
SERVERS = {
    "uvicorn": "uvicorn",
    "stock uvicorn": STOCK,
    "gthread": "gthread",
    "gevent": "gevent",
    "2 x uvicorn": [*Project.COMMANDS["uvicorn"], *TWO],
    "2 x gthread": [*Project.COMMANDS["gthread"], *TWO],
    "2 x gevent": [*Project.COMMANDS["gevent"], *TWO],
}
#: Seconds.
EVERY = 1


@pytest.mark.parametrize("kind", SERVERS)
def test_they_end_at_once_here_and_soon_elsewhere(serve, http, kind):
    server = serve(SERVERS[kind], env=LAB, bus={"RECHECK_EVERY": EVERY})
    database = server.env["TESTPROJECT_DB"]

    def log_in():
        http.cookies.clear()
        key = http.get(f"{server.url}/lab/session/").text
        http.cookies.clear()
        return f"Cookie: sessionid={key}"

    def execute(sql, *values):
        with sqlite3.connect(database, timeout=30) as connection:
            connection.execute(sql, values)
        connection.close()

    with Streams(server.port) as clients:

        def begin(cookie):
            return [
                stream
                for form in ("sync", "async")
                for stream in clients.begin(
                    path=f"/lab/{form}/ticking/{form}/", count=3, headers=[cookie]
                )
            ]

        leaves, stays = log_in(), log_in()
        leaving, staying = begin(leaves), begin(stays)
        nobody = clients.begin(path="/lab/async/ticking/nobody/")
        http.get(f"{server.url}/lab/logout/", headers=dict([leaves.split(": ", 1)]))
        wait_until(lambda: all(stream.end for stream in leaving), "those who log out to end")
        assert {stream.end for stream in leaving} == {"clean"}

        # Whoever stays is asked about, and stays.
        counts = [len(stream.events) for stream in staying]
        wait_until(
            lambda: all(
                len(stream.events) > count + 50 * EVERY * 2
                for stream, count in zip(staying, counts, strict=True)
            ),
            "some more ticks",
        )
        execute("UPDATE auth_user SET is_active = 0")
        wait_until(lambda: all(stream.end for stream in staying), "those who may not stay to end")
        assert {stream.end for stream in staying} == {"clean"}
        assert {stream.events[-1][0] for stream in staying} == {"stream-error"}
        assert [stream.end for stream in nobody] == [None]
    output = server.output()
    assert "Traceback" not in output, output[-3000:]
