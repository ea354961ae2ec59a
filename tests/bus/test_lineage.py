"""A log that comes back with older data, and goes on in a new epoch."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.cursor import Cursor, descends, new_epoch
from flosse_bus.message import Message, Reset
from flosse_bus.ring import Ring
from flosse_bus.test import item
from tests import TORTURE
from tests.hubs import Flags, all_of, brief, hub_of, reached


class Forgetful(MemoryBackend):
    """It can be restarted from a copy of itself that lacks the last events."""

    ancestors = {}

    def restart(self, lost=0):
        with self._lock:
            end = self._position - lost
            self.ancestors = {**self.ancestors, self._epoch: end}
            self.ancestors = {epoch: min(last, end) for epoch, last in self.ancestors.items()}
            self._epoch, self._position = new_epoch(), end
            for topic, old in list(self._rings.items()):
                ring = self._rings[topic] = Ring(size=1000, ttl=None, evicted=old.evicted)
                for record in old.after(0):
                    if record.position <= end:
                        ring.append(record)
                if not ring.head:
                    del self._rings[topic]
            for listener in self._listeners:
                listener.interrupt()

    def read(self, names):
        return dataclasses.replace(super().read(names), ancestors=self.ancestors)


async def settled(hub, backend):
    """Wait until the hub has noticed."""
    while hub.board.epoch != backend.tail().epoch:
        await asyncio.sleep(0)
    await reached(hub, backend.tail().position)


@pytest.mark.parametrize(
    ("cursor", "held"),
    [
        (Cursor("now", 10), True), (Cursor("now", 0), True), (Cursor("now", 11), False),
        (Cursor("old", 7), True), (Cursor("old", 8), False), (Cursor("other", 0), False),
    ],
)  # fmt: skip
def test_a_cursor_is_a_place_in_the_log_or_in_what_it_has_gone_on_from(cursor, held):
    assert descends(Cursor("now", 10), {"old": 7}, cursor) is held


def test_a_restart_that_loses_nothing_is_not_noticed(run):
    async def main():
        async with hub_of(Forgetful) as (hub, backend):
            first = backend.publish(item("a", 1))
            stream = await hub.open(["a", "b"], after=str(first.cursor), signal=Flags())
            assert brief(all_of(stream)) == [("resumed", "1")]
            backend.restart()
            backend.publish(item("b", 2))
            await settled(hub, backend)
            assert brief(all_of(stream)) == [2]
            backend.restart()
            again = await hub.open(["a", "b"], after=str(first.cursor), signal=Flags())
            assert brief(all_of(again))[-1] == 2
            assert hub.board.counters["resets"] == 0

    run(main())


def test_who_has_had_what_is_gone_is_reset_and_nobody_else(run):
    async def main():
        async with hub_of(Forgetful) as (hub, backend):
            streams = {
                names: await hub.open(names.split(), after=None, signal=Flags())
                for names in ("a", "b", "a b", "**", "c.*")
            }
            backend.publish(item("b", 1))
            lost = backend.publish(item("a", 2))
            await reached(hub, 2)
            for stream in streams.values():
                all_of(stream)
            backend.restart(lost=1)
            new = backend.publish(item("b", 3))
            assert new.position == lost.position
            await settled(hub, backend)
            got = {names: brief(all_of(stream)) for names, stream in streams.items()}
            assert got == {
                "a": ["unknown:a"], "b": [3], "a b": ["unknown:a,b"], "**": ["unknown:**"],
                "c.*": [],
            }  # fmt: skip
            after = await hub.open(["b"], after=str(lost.cursor), signal=Flags())
            assert brief(all_of(after)) == [("open", "2"), "unknown:b"]

    run(main())


@pytest.mark.parametrize("seed", range(2000 if TORTURE else 150))
def test_random_restarts(run, seed):
    """Between two resets each stream has exactly what the log has, and no reset is for nothing."""

    async def main():
        choose = random.Random(seed)
        async with hub_of(Forgetful, history_ttl=None) as (hub, backend):
            await hub.open(["z"], after=None, signal=Flags())  # it listens from here on
            log = []  # (position, topic, number) as it stands
            gone = set()
            streams = []  # [topics, subscription, begun at, numbers since, told of a loss]
            number = 0
            for _ in range(choose.randint(5, 60)):
                step = choose.random()
                if step < 0.5:
                    number += 1
                    topic = choose.choice("abc")
                    record = backend.publish(item(topic, number))
                    log.append((record.position, topic, number))
                elif step < 0.7:
                    names = choose.choice(["a", "b", "ab", "abc", "*"])
                    topics = "abc" if names == "*" else names
                    after = choose.choice([None, "earliest"])
                    begun = log[-1][0] if log and after is None else 0
                    opened = await hub.open(list(names), after=after, signal=Flags())
                    streams.append([topics, opened, begun, [], False])
                elif step < 0.85:
                    await settled(hub, backend)
                    for stream in streams:
                        collect(stream)
                        if choose.random() < 0.1:
                            hub.close(stream[1])
                    streams = [stream for stream in streams if not stream[1].closed]
                else:
                    await settled(hub, backend)
                    for stream in streams:
                        collect(stream)
                    lost = min(choose.choice([0, 0, 1, 2, 5]), len(log))
                    undone = {n for _, _, n in log[len(log) - lost :]}
                    gone |= undone
                    del log[len(log) - lost :]
                    had = [bool(undone & set(stream[3])) for stream in streams]
                    backend.restart(lost)
                    end = backend.tail().position
                    await settled(hub, backend)
                    for stream, must in zip(streams, had, strict=True):
                        may = stream[2] > end  # it has an id from there, if nothing else
                        stream[2] = min(stream[2], end)
                        stream[4] = False
                        collect(stream)
                        assert must <= stream[4] <= (must or may), (seed, stream[0])
            await settled(hub, backend)
            for stream in streams:
                collect(stream)
                topics, _, begun, numbers, _ = stream
                wanted = [n for position, topic, n in log if topic in topics and position > begun]
                assert numbers == wanted, seed
                assert not gone & set(numbers)

    run(main())


def collect(stream):
    for one in all_of(stream[1]):
        if isinstance(one, Reset):
            stream[2:] = [Cursor.parse(one.id).position, [], True]
        elif isinstance(one, Message):
            stream[3].append(one.to_event().data)
