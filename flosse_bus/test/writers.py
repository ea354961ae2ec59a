"""The contract of concurrent publishers: threads, tasks, processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from ..backends.base import BusBackend
from ..events import Record
from ..exceptions import BackendUnavailable
from .base import DEADLINE, ContractBase, item

WRITERS = 4
EACH = 50


class WriterContract(ContractBase):
    """Publish from many places at once."""

    def test_threads_publish_in_one_order(self) -> None:
        with self.backend(history_size=WRITERS * EACH) as backend:
            sent: dict[int, list[Record]] = {}

            def write(writer: int) -> None:
                sent[writer] = [backend.publish(item("a", [writer, n])) for n in range(EACH)]

            threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            assert len(sent) == WRITERS
            _check_order(backend, [records for _, records in sorted(sent.items())])

    def test_tasks_of_several_loops_publish_in_one_order(self) -> None:
        async def write(backend: BusBackend, writer: int) -> list[Record]:
            return [await backend.apublish(item("a", [writer, n])) for n in range(EACH)]

        async def main(backend: BusBackend, first: int) -> list[list[Record]]:
            writers = range(first, first + WRITERS // 2)
            return list(await asyncio.gather(*(write(backend, n) for n in writers)))

        with self.backend(history_size=WRITERS * EACH) as backend:
            sent = []
            for first in range(0, WRITERS, WRITERS // 2):  # a loop each, one after the other
                sent += asyncio.run(main(backend, first))
            _check_order(backend, sent)

    def test_processes_publish_in_one_order(self) -> None:
        """Forked from a process that has used the backend, and with its very object."""
        if sys.platform == "win32":
            return
        with self.backend(history_size=(WRITERS + 1) * EACH) as backend:
            if not backend.crosses_processes:
                return
            backend.publish(item("b"))
            children = [_fork(partial(_write, backend, n)) for n in range(WRITERS)]
            own = [backend.publish(item("a", [WRITERS, n])) for n in range(EACH)]
            told = [child() for child in children]
            kept = backend.read(["a"]).topics["a"].records
            assert [r.position for r in kept] == sorted(
                [r.position for r in own] + [position for one in told for position in one]
            )
            by_writer: dict[int, list[int]] = {}
            for record in kept:
                writer, n = record.to_event().data
                by_writer.setdefault(writer, []).append(n)
            assert by_writer == {n: list(range(EACH)) for n in range(WRITERS + 1)}

    def test_a_connection_that_breaks_costs_at_most_one_error(self) -> None:
        """What publish returned is there once; what it refused is there at most once."""
        with self.backend() as backend:
            returned: list[int] = []
            refused: list[int] = []
            for n in range(20):
                if n % 4 == 1:
                    self.cut(backend)
                try:
                    backend.publish(item("a", n))
                    returned.append(n)
                except BackendUnavailable:
                    refused.append(n)
            kept = [record.to_event().data for record in backend.read(["a"]).topics["a"].records]
            assert len(refused) <= 5
            assert [n for n in kept if n not in refused] == returned
            assert len(kept) == len(set(kept))
            assert backend.tail().position > 0


def _write(backend: BusBackend, writer: int) -> list[int]:
    return [backend.publish(item("a", [writer, n])).position for n in range(EACH)]


def _check_order(backend: BusBackend, sent: list[list[Record]]) -> None:
    kept = backend.read(["a"]).topics["a"].records
    positions = [record.position for record in kept]
    assert positions == sorted(set(positions))
    assert {r.cursor for r in kept} == {r.cursor for records in sent for r in records}
    previous = 0
    for record in kept:  # each knows the one before it, so that readers can see a hole
        assert record.previous == previous
        previous = record.position
    for writer, records in enumerate(sent):
        mine = [r for r in kept if r.to_event().data[0] == writer]
        assert mine == records


def _fork(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run something in a forked child; call the answer to wait for what it returned."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads. Servers do it, and so it must work.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:  # noqa: BLE001  # because it must not run the parent's tests
            os.write(write, json.dumps(repr(error)).encode())
        os._exit(0)
    os.close(write)

    def wait() -> Any:
        with os.fdopen(read, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            end, text = time.monotonic() + DEADLINE, b""
            while not os.waitpid(pid, os.WNOHANG)[0]:
                assert time.monotonic() < end, "a child did not end"
                text += pipe.read() or b""
                time.sleep(0.005)
            return json.loads(text + (pipe.read() or b""))

    return wait
