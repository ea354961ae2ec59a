"""Generator views on real servers: sync and async ones, under WSGI and under ASGI."""

from __future__ import annotations

import json
import signal

import pytest

from tests.processes import Project, wait_until
from tests.servers.expected import check
from tests.streams_client import Streams

pytestmark = pytest.mark.server

LAB = {"DJANGO_SETTINGS_MODULE": "tests.lab.settings"}
#: Those that cut streams off when they stop.
CUT = {"uwsgi", "runserver"}
STOCK = {"stock uvicorn": "uvicorn"}


@pytest.fixture(scope="module", params=[*Project.COMMANDS, *STOCK])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def server(kind, hub, tmp_path_factory):
    """One for both tests: the last stops it."""
    with pytest.MonkeyPatch.context() as patch:
        if kind in STOCK:
            command = [
                part.replace("testproject.asgi", "tests.lab.stock")
                for part in Project.COMMANDS[STOCK[kind]]
            ]
            patch.setitem(Project.COMMANDS, kind, command)
        origins = {"ALLOWED_ORIGINS": [hub.url]}
        with Project(kind, tmp_path_factory.mktemp("server"), env=LAB, bus=origins) as server:
            yield server


@pytest.mark.browser
def test_chromium_reads_its_streams(server, chromium_hub):
    check(chromium_hub, server.url)


def test_both_kinds_of_generator(server, kind, http):
    def state(name, **params):
        return http.get(f"{server.url}/lab/state/{name}/", params=params).json()

    def closed(name):
        wait_until(lambda: state(name)["closed"] == state(name)["begun"], f"{name} to be closed")

    with Streams(server.port) as clients:
        for form in ("sync", "async"):
            # The first event arrives before the second is yielded.
            [stream] = clients.begin(path=f"/lab/{form}/gated/{form}/")
            wait_until(lambda stream=stream: stream.events, "the first event")
            wait_until(lambda form=form: state(form)["yielded"], "it to go on")
            assert state(form) == {"begun": 1, "yielded": 1, "closed": 0}
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert "content-encoding" not in stream.headers
            around = {"yes": "Ja", "zone": "Asia/Tokyo", "visitor": "Heidi", "board": "/"}
            assert json.loads(stream.events[0][1]) == around
            state(form, open=1)
            wait_until(lambda stream=stream: stream.end, "the end")
            assert (stream.end, stream.events[1:]) == ("clean", [("second", "Grüße")])
            assert (stream.last_id, state(form)["closed"]) == ("2", 1)

            # It is closed when its client goes.
            name = f"{form}-ticks"
            [stream] = clients.begin(path=f"/lab/{form}/ticking/{name}/")
            wait_until(lambda stream=stream: len(stream.events) > 3, "some ticks")
            clients.cut(stream)
            closed(name)

            # A heartbeat is a comment, while the generator is silent.
            name = f"{form}-silent"
            [stream] = clients.begin(path=f"/lab/{form}/silent/{name}/")
            wait_until(lambda stream=stream: stream.comments > 2, "heartbeats")
            assert stream.events == []
            state(name, open=1)
            wait_until(lambda stream=stream: stream.end, "the end")
            assert stream.events == [("message", "at last")]

            # A snapshot, then what is published; closed while it waits for the next.
            name = f"{form}-follow"
            [stream] = clients.begin(path=f"/lab/{form}/following/{name}/")
            wait_until(lambda stream=stream: stream.last_id, "the snapshot")
            assert [event for event, _ in stream.events] == ["names"]
            wait_until(lambda stream=stream: stream.comments, "a heartbeat")
            clients.cut(stream)
            closed(name)

            # Many can be opened at once.
            many = clients.open(path=f"/lab/{form}/gated/{form}/", count=10)
            wait_until(lambda many=many: all(stream.end for stream in many), "their ends")
            assert {(stream.end, len(stream.events)) for stream in many} == {("clean", 2)}

            # Its request's body can be read.
            answer = http.post(f"{server.url}/lab/{form}/posted/p/", data={"question": "why"})
            assert answer.text == "data: why\n\ndata: question=why\n\n"
            answer = http.get(f"{server.url}/lab/{form}/asking/a/")
            assert answer.text.endswith("data: True\n\n")
            assert http.head(f"{server.url}/lab/{form}/gated/{form}/").text == ""

        # The server can stop while generators run.
        running = [
            stream
            for form in ("sync", "async")
            for view in ("ticking", "following")
            for stream in clients.begin(path=f"/lab/{form}/{view}/last/")
        ]
        http.close()
        assert server.stop(signal.SIGTERM) < 8
        wait_until(lambda: all(stream.end for stream in running), "the streams to end")
        ends = {stream.end for stream in running}
        assert ends <= ({"clean", "cut"} if kind in CUT else {"clean"})
    output = server.output()
    assert "Traceback" not in output, output[-3000:]
    assert "CancelledError" not in output
