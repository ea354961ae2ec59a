"""Interruptions, holes and new epochs, as a listener reports them or should have."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.test import item
from tests.hubs import Flags, all_of, brief, hub_of, publish, reached


def test_an_interruption_is_repaired_from_the_log(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "p.*"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            hub.feed._listener.interrupt()
            for n in range(1, 4):
                backend.publish(item("t", n))  # these are not delivered: the inbox is void
            last = backend.publish(item("p.new", 4))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [0, 1, 2, 3, 4]
            assert hub.board.counters["resets"] == 0

    run(main())


def test_an_interruption_that_lost_events_is_a_reset(run):
    async def main():
        async with hub_of(history_size=2) as (hub, backend):
            subscription = await hub.open(["t", "u"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            hub.feed._listener.interrupt()
            for n in range(1, 6):
                backend.publish(item("t", n))
            last = backend.publish(item("u", "whole"))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [0, "overflow:t", "whole", ("mark", "7")]

    run(main())


def test_a_quiet_topic_is_not_reset_by_an_interruption(run):
    async def main():
        async with hub_of(history_size=2, history_ttl=0.2) as (hub, backend):
            subscription = await hub.open(["quiet", "q.*"], after=None, signal=Flags())
            all_of(subscription)
            for n in range(50):
                backend.publish(item(f"busy.{n}", n))
                await asyncio.sleep(0.005)
            last = backend.publish(item("busy", "last"))
            assert backend.read(["quiet"]).forgotten > 0
            await reached(hub, last.position)
            hub.feed._listener.interrupt()
            last = backend.publish(item("quiet", "hello"))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == ["hello"]

    run(main())


def test_a_hole_in_a_topic_is_a_reset(run):
    """What no listener should do, it must survive: deliver 3 after 1."""

    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 1)
            assert brief(all_of(subscription)) == [1]
            record = dataclasses.replace(
                backend.read(["t"]).topics["t"].records[0], position=3, previous=2
            )
            hub.feed.dispatch([record])
            assert brief(all_of(subscription)) == ["overflow:t"]
            hub.feed.dispatch([dataclasses.replace(record, position=4, previous=3)])
            assert brief(all_of(subscription)) == [1]

    run(main())


def test_an_event_missed_while_the_client_was_on_its_way_is_told(run):
    """It saw a later event of another topic, was cut off, and came back after the hole was seen."""

    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "u"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 1)
            await publish(hub, backend, "u", 2)
            assert brief(all_of(subscription)) == [1, 2]
            missed = backend.read(["t"]).topics["t"].records[0]  # its next is 3; 4 is of "u"
            other = backend.read(["u"]).topics["u"].records[0]
            hub.feed.dispatch([dataclasses.replace(other, position=4, previous=2)])
            assert brief(all_of(subscription)) == [2]
            last_id = str(subscription.cursor)
            hub.close(subscription)
            hub.feed.dispatch([dataclasses.replace(missed, position=5, previous=3)])
            again = await hub.open(["t", "u"], after=last_id, signal=Flags())
            assert brief(all_of(again)) == [("open", "4"), "expired:t", ("mark", "5")]

    run(main())


def test_a_reset_never_takes_the_client_back(run):
    """The reset waits behind an event; whoever is cut off after it must not get that event again."""

    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "u"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 1)
            record = backend.read(["t"]).topics["t"].records[0]
            hub.feed.dispatch([dataclasses.replace(record, topic="u", position=3, previous=2)])
            message, reset = subscription.take()
            assert (message.position, reset.topics, reset.id) == (
                1,
                ("u",),
                str(message.record.cursor),
            )

    run(main())


def test_a_new_epoch_resets_and_goes_on(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "p.*"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            backend.flush()
            last = backend.publish(item("t", 1))
            while hub.board.epoch != last.epoch:
                await asyncio.sleep(0)
            assert brief(all_of(subscription)) == ["unknown:t,p.*"]
            await publish(hub, backend, "t", 2)
            await publish(hub, backend, "p.1", 3)
            assert brief(all_of(subscription)) == [2, 3]
            # The history of the new log is whole: whoever has its first id misses nothing.
            resumed = await hub.open(["t"], after=str(last.cursor), signal=Flags())
            assert brief(all_of(resumed)) == [("resumed", "1"), 2]

    run(main())


def test_a_loss_under_a_pattern_during_an_outage_is_told(run):
    async def main():
        async with hub_of(history_ttl=0.02) as (hub, backend):
            subscription = await hub.open(["p.*"], after=None, signal=Flags())
            all_of(subscription)
            hub.feed._listener.interrupt()
            backend.publish(item("p.1"))  # not heard of, and expired before the loop comes to it
            until = asyncio.get_running_loop().time() + 0.03
            while asyncio.get_running_loop().time() < until:
                pass
            await reached(hub, 1)
            assert brief(all_of(subscription)) == ["overflow:p.*"]

    run(main())


def test_an_ended_hub_ends_what_still_opens(run):
    async def main():
        async with hub_of() as (hub, _backend):
            first = await hub.open(["t"], after=None, signal=Flags())
            hub.end_all("shutdown")
            second = await hub.open(["t"], after=None, signal=Flags())
            assert (first.closed, second.closed) == ("shutdown", "shutdown")

    run(main())


class Deliberate(MemoryBackend):
    """Its listener waits with a limit, as those of brokers do."""

    def listen(self):
        listener = super().listen()

        async def watch(names):
            await asyncio.wait_for(asyncio.sleep(0), 5)

        listener.watch = watch
        return listener


@pytest.mark.parametrize("step", range(12))
def test_a_stream_whose_caller_has_gone_leaves_nothing(run, step):
    async def main():
        async with hub_of(Deliberate) as (hub, _backend):
            opening = asyncio.create_task(hub.open(["a"], after=None, signal=Flags()))
            for _ in range(step):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            if not opening.cancelled():
                hub.close(opening.result())
            last = await hub.open(["b"], after=None, signal=Flags())  # behind it in the line
            hub.close(last)
            assert hub.streams == 0

    run(main())
