"""Generators of more than fits into memory or buffers: the server waits for whoever reads slowly."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests import TORTURE
from tests.processes import children_of, wait_until

pytestmark = pytest.mark.server

MEGABYTE = 1_000_000
#: How many of them a view yields, each as one event.
EVENTS = 200 if TORTURE else 20
#: What buffers of the kernel may hold on their way.
UNDER_WAY = 10
#: Bytes that are written at once, at most.
PIECE = 32_768


def rss(pid):
    """Return the bytes of memory that a server and its workers have."""
    total = 0
    for each in (pid, *children_of(pid)):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return total * 4096


class Reader:
    """Reads a stream's chunks one by one, and not before it is asked to."""

    def __init__(self, port, path):
        self._socket = socket.socket()
        self._socket.settimeout(30)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()
        self._socket.close()

    def head(self):
        return list(iter(self._file.readline, b"\r\n"))

    def chunks(self):
        while size := int(self._file.readline(), 16):
            yield self._file.read(size + 2)[:-2]


def steady(ask):
    """Wait until an answer has been the same for some time, and return it."""
    answers = []

    def same():
        answers.append(ask())
        return len(answers) > 20 and len(set(answers[-20:])) == 1

    wait_until(same, "an answer that stays")
    return answers[-1]


@pytest.mark.parametrize("kind", ["uvicorn", "gthread", "gevent"])
def test_memory_stays_flat_and_the_generator_waits(serve, http, kind, capsys):
    server = serve(kind, env={"DJANGO_SETTINGS_MODULE": "tests.lab.settings"})
    for form in ("sync", "async"):
        _read(server, form, http, f"{kind}, {form}", capsys)


def _read(server, form, http, label, capsys):
    def state():
        return http.get(f"{server.url}/lab/state/{form}/").json()

    # What the first streams load is not theirs alone.
    warm = http.get(f"{server.url}/lab/{form}/big/warm/", params={"megabytes": 3})
    assert len(warm.content) > 3 * MEGABYTE
    before = most = rss(server.pid)
    with Reader(server.port, f"/lab/{form}/big/{form}/?megabytes={EVENTS}") as reader:
        assert b"transfer-encoding: chunked\r\n" in [line.lower() for line in reader.head()]
        # Nobody reads: nothing more is yielded.
        held = steady(lambda: state()["yielded"])
        assert 0 < held < UNDER_WAY
        # It goes on as far as somebody reads, and no further.
        largest = received = checked = 0
        for chunk in reader.chunks():
            largest = max(largest, len(chunk))
            received += len(chunk)
            last = chunk
            if received // (5 * MEGABYTE) > checked:
                checked += 1
                most = max(most, rss(server.pid))
                assert state()["yielded"] <= received / MEGABYTE + UNDER_WAY
    assert last.endswith(b"\n\n")
    assert received == EVENTS * (MEGABYTE + len("data: \n\n"))
    assert largest <= PIECE
    wait_until(lambda: state()["closed"] == 1, "the generator to be closed")
    assert state()["yielded"] == EVENTS
    assert most - before < 20 * MEGABYTE
    with capsys.disabled() if TORTURE else contextlib.nullcontext():  # else if it fails
        print(
            f"\n{label}: {EVENTS} MB added {(most - before) / 1e6:.1f} MB at most to "
            f"{before / 1e6:.0f} MB. A client that did not read let {held} MB be yielded. "
            f"Pieces were of {largest:,} bytes at most."
        )
