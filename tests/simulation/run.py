"""One run: hubs, clients and faults, as a seed has it.

Its loop has a clock of its own: to sleep here is to let that time go by, and takes none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import random
from collections import Counter
from unittest import mock

import flosse_bus.feed
import flosse_bus.hub
import flosse_bus.notices
import flosse_bus.subscription
import flosse_bus.switchboard
import flosse_bus.wire
from flosse_bus.conf import load
from flosse_bus.cursor import EARLIEST
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.hub import Hub
from flosse_bus.notices import Notices

from .broker import Broker, Link
from .loop import Clock, SimulatedLoop
from .oracle import Client, Find

TOPICS = ["a", "b", "c.1", "c.2", "d.1"]
NAMES = [*TOPICS, "c.*", "*.1", "**", "never"]
CLOCKED = [
    flosse_bus.hub, flosse_bus.feed, flosse_bus.switchboard, flosse_bus.subscription,
    flosse_bus.notices,
]  # fmt: skip
LINGER = 2.0


class Signal:
    """What a client is woken by. Some take what there is on the spot."""

    def __init__(self, run, client):
        self._run, self._client = run, client
        if run.rng.random() < 0.4:
            self.offer = self._offer

    def set(self):
        pass

    def _offer(self, messages):
        client = self._client
        if client.subscription is None or self._run.rng.random() < 0.5:
            return False
        self._run.hand(client, messages)
        return True


class Connected(Client):
    """A client with its connection."""

    def __init__(self, broker, names, after):
        super().__init__(broker, names, after)
        self.hub = None
        self.opening = None
        self.subscription = None


class Run:
    def __init__(self, seed):
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop(random.Random(seed + 1), shuffled=self.rng.random() < 0.5)
        self.clock = Clock(self.loop)
        self.trace = []
        self.counts = Counter()
        self.clients = []
        self.hubs = []
        self.ids = []

    # The frame

    def go(self):
        """Run it.

        Raises:
            Find: with the seed.
        """
        records = []
        handler = logging.Handler(logging.ERROR)
        handler.emit = records.append
        logger = logging.getLogger("flosse_bus")
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(handler)
        patches = [mock.patch.object(module, "time", self.clock) for module in CLOCKED]
        chance = random.Random(self.seed + 2)
        patches += [
            mock.patch.object(m, "random", chance) for m in (flosse_bus.feed, flosse_bus.wire)
        ]
        patches.append(mock.patch.object(flosse_bus.feed, "LINGER", LINGER))
        try:
            for patch in patches:
                patch.start()
            self.loop.run_until_complete(self._main())
            if self.loop.errors:
                raise Find(f"in the loop: {self.loop.errors}")
            if records:
                raise Find(f"logged: {records[0].getMessage()}\n{records[0].exc_info}")
        except Exception as error:
            self._close()
            tail = "\n".join(self.trace[-200:])
            raise Find(f"{tail}\nseed {self.seed}: {error!r}") from error
        finally:
            for patch in reversed(patches):
                patch.stop()
            logger.removeHandler(handler)
            logger.propagate = propagate
        self._close()
        return self

    def _close(self):
        for _ in range(9):  # some begin others when they are cancelled
            left = asyncio.all_tasks(self.loop)
            if not left:
                break
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(left, timeout=60.0))
        self.loop.close()

    @property
    def digest(self):
        return hashlib.sha1("\n".join(self.trace).encode()).hexdigest()

    def note(self, text):
        self.trace.append(f"{self.loop.time():9.3f} {text}")

    async def _main(self):
        rng = self.rng
        config = dataclasses.replace(
            load("default"),
            history_size=rng.choice([2, 4, 100]),
            history_ttl=rng.choice([None, None, 2.0, 20.0]),
            max_pending=rng.choice([2, 3, 50]),
            heartbeat=4.0,
        )
        skew = rng.choice([0.0, 0.0, 0.0, -2.0, 2.0])
        self.broker = Broker(random.Random(self.seed + 3), self.clock, config, skew=skew)
        self.broker.slow = rng.random() < 0.3
        self.config = config
        for _ in range(rng.choice([1, 2, 2, 3])):
            self.hubs.append(self._new_hub())
        operations, weights = zip(*self._choose_operations(), strict=True)
        for _ in range(rng.randrange(10, 160)):
            if rng.random() < 0.6:
                await asyncio.sleep(rng.choice([0, 0.001, 0.1, 0.5, 2.0]))
            operation = rng.choices(operations, weights)[0]
            self.counts[operation.__name__] += 1
            await operation()
            self._check()
        await self._settle()

    def _choose_operations(self):
        common = [
            (self.publish, 20), (self.open, 8), (self.read, 16), (self.read_all, 6), (self.leave, 1),
            (self.cut_and_resume, 4), (self.cancel, 1), (self.beat, 3), (self.sweep, 2),
            (self.ask, 1),
        ]  # fmt: skip
        faults = [
            (self.cut_line, 2), (self.interrupt, 2), (self.hold_line, 2), (self.overflow, 1),
            (self.make_hole, 1), (self.restart_hub, 1), (self.take_down, 1), (self.trim, 2),
            (self.forget, 1), (self.go_back, 2), (self.flush, 0.5), (self.collapse, 0.3),
            (self.end, 0.5), (self.overtake, 1),
        ]  # fmt: skip
        # Each seed has some of the faults, so that some have none of what hides others.
        share = self.rng.choice([0.0, 0.3, 0.7, 1.0])
        return common + [fault for fault in faults if self.rng.random() < share]

    def _new_hub(self):
        return Hub(Link(self.config, self.broker), self.config, Notices("default"))

    def _check(self):
        for hub in self.hubs:
            board = hub.board
            for name, channel in board._channels.items():
                if channel.ring.head > board.position:
                    raise Find(f"the ring of {name} is ahead: {channel.ring.head}")
                if board._channel_of(name) is not channel or not (
                    board.follows(name) or any(one.covers(name) for one in board._patterns)
                ):
                    raise Find(f"nobody follows {name}")

    # What may happen

    def _client(self):
        open = [client for client in self.clients if client.subscription is not None]
        return self.rng.choice(open) if open else None

    async def publish(self):
        topic = self.rng.choice(TOPICS)
        for _ in range(self.rng.choice([1, 1, 2, 6])):
            self.ids.append(str(self.broker.publish(topic).cursor))
            self.note(f"publish {topic} {len(self.broker.all)} at {self.ids[-1]}")
            if self.rng.random() < 0.3:
                topic = self.rng.choice(TOPICS)

    async def open(self):
        rng = self.rng
        names = tuple(rng.sample(NAMES, rng.choice([1, 1, 2, 3])))
        after = rng.choice([None, None, EARLIEST, "id", "id", "id", "x-1", "none"])
        if after == "id":
            after = rng.choice(self.ids) if self.ids else None
        self._open(Connected(self.broker, names, after))

    def _open(self, client):
        client.hub = self.rng.choice(self.hubs)
        numbers = self.broker.numbers
        client.since = numbers.get(client.hub.board.epoch, len(numbers) - 1)
        client.subscription = None
        self.clients.append(client)
        self.note(
            f"open {client.names} after {client.last_id} at hub {self.hubs.index(client.hub)}"
        )
        opening = client.hub.open(
            client.names, after=client.last_id, signal=Signal(self, client), heartbeat=3.0
        )
        client.opening = self.loop.create_task(opening)
        client.opening.add_done_callback(lambda task: self._opened(client, task))

    def _opened(self, client, task):
        if client not in self.clients:
            if not task.cancelled():
                task.exception()
            return
        try:
            subscription = task.result()
        except (BackendUnavailable, asyncio.CancelledError):
            self.counts["openings that failed"] += 1
            self.clients.remove(client)
            self.note(f"not opened: {client.names}")
            return
        if subscription.closed is not None:
            self.clients.remove(client)
            return
        client.subscription = subscription

    async def read(self):
        client = self._client()
        if client is not None:
            self._take(client)

    async def read_all(self):
        for client in list(self.clients):
            while client.subscription is not None and self._take(client):
                pass

    def _take(self, client):
        if client.subscription.closed is not None:
            self._resume(client)
            return False
        items = client.subscription.take()
        self.hand(client, items)
        return bool(items)

    def hand(self, client, items):
        for item in items:
            self.note(f"{client.names} gets {item.frame(envelope=True)!r}")
            self.counts[type(item).__name__] += 1
            client.receive([item])

    async def leave(self):
        client = self._client()
        if client is not None:
            self.clients.remove(client)
            client.hub.close(client.subscription)

    async def cut_and_resume(self):
        client = self._client()
        if client is not None:
            if self.rng.random() < 0.1:
                with client.hub.board.lock:
                    client.hub.close(client.subscription, "cut while the lock is held")
            elif self.rng.random() < 0.1:
                client.hub.give_up(client.subscription, "timeout")
            self._resume(client)

    def _resume(self, client):
        self.clients.remove(client)
        client.hub.close(client.subscription)
        again = Connected(self.broker, client.names, client.last_id)
        again.received, again.excused = client.received, client.excused
        if client.last_id is not None and client.last_id != EARLIEST:
            again.at, again.tainted = client.at, client.tainted
        self._open(again)

    async def cancel(self):
        opening = [client for client in self.clients if client.subscription is None]
        if opening:
            client = self.rng.choice(opening)
            self.note(f"cancel {client.names}")
            self.clients.remove(client)
            client.opening.cancel()

    async def beat(self):
        await asyncio.sleep(3.5)

    async def sweep(self):
        hub = self.rng.choice(self.hubs)
        if hub.feed._tasks:
            self.note("sweep")
            await hub.feed.sweep(self.rng.choice([-1.0, 0.5]))

    async def ask(self):
        """How far is a hub behind?"""
        hub = self.rng.choice(self.hubs)
        tail = self.broker.tail
        if hub.feed.behind(tail):
            asked = hub.look(tail)
            assert asked is None  # in its own loop
            hub.feed.look(tail, lambda: None)

    # Faults

    def _line(self):
        self.note("fault at a line")
        return self.rng.choice(self.broker.lines) if self.broker.lines else None

    async def cut_line(self):
        if line := self._line():
            line.cut()

    async def interrupt(self):
        if line := self._line():
            line.put(flosse_bus.feed.Interruption())

    async def hold_line(self):
        if line := self._line():
            line.hold(self.rng.choice([0.5, 3.0, 8.0]))

    async def overflow(self):
        if line := self._line():
            line.overflow()

    async def make_hole(self):
        if line := self._line():
            topic = self.rng.choice(TOPICS)
            for _ in range(2):
                self.broker.publish(topic)
            line.make_hole()

    async def restart_hub(self):
        index = self.rng.randrange(len(self.hubs))
        hub, self.hubs[index] = self.hubs[index], self._new_hub()
        self.note(f"restart hub {index}")
        await hub.aclose()
        for client in list(self.clients):
            if client.hub is hub and client.subscription is not None:
                self._resume(client)

    async def take_down(self):
        self.note("broker down")
        self.broker.down_until = self.loop.time() + self.rng.choice([0.5, 4.0, 8.0])
        for line in list(self.broker.lines):
            line.cut()

    async def trim(self):
        self.broker.trim(self.rng.choice(TOPICS))

    async def forget(self):
        self.broker.forget()

    async def go_back(self):
        self._lose(
            lambda: self.broker.go_back(
                self.rng.choice([0, 0, 1, 2, 4, 9]), knows=self.rng.random() < 0.7
            )
        )

    async def overtake(self):
        """Streams that are ahead of their hub, when the log goes back to between the two."""
        for line in self.broker.lines:
            line.hold(8.0)
        await self.publish()
        await self.publish()
        for _ in range(3):
            await self.open()
        await asyncio.sleep(1.0)
        await self.read_all()
        await self.go_back()
        await self.publish()

    async def flush(self):
        self._lose(self.broker.flush)

    def _lose(self, change):
        before = self.broker.facts
        change()
        end = self.broker.state.position
        self.note(f"the log is {self.broker.tail} now, after {self.broker.state.ancestors}")
        undone = before[len(self.broker.facts) :]
        for client in self.clients:
            client.goes_back(end, undone)

    async def collapse(self):
        """Somebody cancels what is not theirs."""
        tasks = self.rng.choice(self.hubs).feed._tasks
        if tasks:
            self.note("collapse")
            self.rng.choice(tasks).cancel()

    async def end(self):
        client = self._client()
        if client is not None:
            client.hub.end(client.subscription, "told to end")

    # The end

    async def _settle(self):
        self.note("settle")
        broker = self.broker
        broker.calm = True
        broker.down_until = 0.0
        for _ in range(400):
            await asyncio.sleep(0.5)
            for client in list(self.clients):
                while client.subscription is not None and self._take(client):
                    pass
            if (
                all(client.subscription is not None for client in self.clients)
                and all(c.hub.feed.is_at(broker.tail) and not c.hub.feed.down for c in self.clients)
                and not any(client.subscription._pending for client in self.clients)
            ):
                break
        else:
            raise Find("it does not settle")
        await asyncio.sleep(4.0)
        await self.read_all()
        for client in self.clients:
            client.settled()
            self.counts["resets"] += client.resets
        self._check()
        for hub in self.hubs:
            line = hub.feed._listener
            if line is not None and not hub.feed.down:
                await hub.feed.sweep(1000.0)
                left = set(line.names) - set(hub.board.names)
                if left and not line.broken:
                    raise Find(f"nobody wants {left} of the listener")
            await hub.aclose()
        self.counts["epochs"] += len(broker.undone)
        self.counts["events"] += len(broker.all)
        self.counts.update(broker.faults)
