"""Writing past ``send`` under uvicorn: only where the bytes are the same, and nothing is in the way."""

from __future__ import annotations

import asyncio
import logging

import pytest
from uvicorn.protocols.http import h11_impl, httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl

from flosse_bus.transport.shortcut import chunk, find_transport

pytestmark = pytest.mark.server

PAYLOADS = [b"x", b"id: a-1\ndata: 1\n\n", "id: a-2\ndata: ü\n\n".encode() * 100, b"\r\n" * 40_000]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


class Transport:
    """Collects what is written."""

    def __init__(self):
        self.written = b""
        self.buffered = 0

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return self.buffered

    def is_closing(self):
        return False

    def close(self):
        pass


def cycle(*, method="GET", version="1.1"):
    """Return uvicorn's own state of one request, as its protocol makes it."""
    logger = logging.getLogger("tests")
    transport = Transport()
    return httptools_impl.RequestResponseCycle(
        scope={"type": "http", "method": method, "http_version": version, "client": None},
        transport=transport,
        flow=FlowControl(transport),
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=version != "1.0",
        on_response=lambda: None,
    )


def body(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_the_bytes_are_those_of_send(run, payload):
    async def main():
        short, long = cycle(), cycle()
        for one in (short, long):
            await one.send(START)
            one.transport.written = b""
        await long.send(body(payload))
        find_transport(short.send).write(chunk(payload))
        assert short.transport.written == long.transport.written
        for one in (short, long):  # and send goes on as if it had written them
            await one.send(body(b"last", more=False))
        assert short.transport.written == long.transport.written

    run(main())


async def not_begun(one):
    return one.send


async def ended(one):
    await one.send(START)
    await one.send(body(b"", more=False))
    return one.send


async def with_a_length(one):
    headers = [(b"content-length", b"5")]
    await one.send({**START, "headers": headers})
    return one.send


async def gone(one):
    await one.send(START)
    one.disconnected = True
    return one.send


async def wrapped(one):
    await one.send(START)

    async def send(message):
        await one.send(message)

    return send


async def another_method(one):
    await one.send(START)
    return one.receive


CASES = [not_begun, ended, with_a_length, gone, wrapped, another_method]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_is_not_surely_the_same_goes_by_send(run, case):
    async def main():
        assert find_transport(await case(cycle())) is None

    run(main())


def test_a_response_to_head_has_no_body(run):
    async def main():
        one = cycle(method="HEAD")
        await one.send(START)
        assert find_transport(one.send) is None

    run(main())


def test_other_protocols_go_by_send(run):
    async def main():
        class Cycle(httptools_impl.RequestResponseCycle):
            """Somebody's own."""

        one = cycle()
        await one.send(START)
        assert find_transport(one.send) is not None
        one.__class__ = Cycle
        assert find_transport(one.send) is None
        assert h11_impl.RequestResponseCycle.__module__ != type(cycle()).__module__

    run(main())
