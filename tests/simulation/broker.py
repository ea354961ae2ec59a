"""A log that several processes share over a network that delays, loses and breaks what it carries."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque

from flosse_bus.backends.base import BusBackend, Interruption, Listener, Snapshot, TopicHistory
from flosse_bus.cursor import Cursor
from flosse_bus.events import Record
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.topics import compile_pattern


@dataclasses.dataclass
class Kept:
    """What is kept of one topic."""

    records: tuple[Record, ...] = ()
    evicted: int = 0
    head: int = 0


@dataclasses.dataclass(frozen=True)
class Fact:
    """That something was published. Facts are true until a rollback."""

    number: int
    position: int
    topic: str
    published_at: float


@dataclasses.dataclass
class State:
    """All that a broker keeps on its disk."""

    epoch: str = "e0"
    position: int = 0
    ancestors: dict[str, int] = dataclasses.field(default_factory=dict)
    topics: dict[str, Kept] = dataclasses.field(default_factory=dict)
    forgotten: int = 0

    def copy(self):
        topics = {name: dataclasses.replace(kept) for name, kept in self.topics.items()}
        return dataclasses.replace(self, topics=topics, ancestors=dict(self.ancestors))


class Broker:
    def __init__(self, rng, clock, config, *, skew=0.0):
        self.rng, self.clock, self.config, self.skew = rng, clock, config, skew
        self.state = State()
        self.saved = {0: self.state.copy()}
        #: All that was ever published and still counts, whatever is kept of it.
        self.facts = []
        #: By number: whatever was ever published.
        self.all = {}
        #: Of each change of the epoch, the topics of which something was undone.
        self.undone = []
        self.numbers = {"e0": 0}  # epochs in their order
        #: The facts of an epoch when it ended.
        self.logs = {}
        #: Numbers of events that are not kept any more, or that did not arrive somewhere.
        self.lost = set()
        #: The highest position that a topic may be told to have lost without having lost it.
        self.blurred = 0
        self.lines = []
        self.down_until = 0.0
        self.faults = Counter()
        #: Do events take long to arrive? Does nothing go wrong any more?
        self.slow = self.calm = False

    def now(self):
        return self.clock.time() + self.skew

    @property
    def tail(self):
        return Cursor(self.state.epoch, self.state.position)

    def publish(self, topic):
        state = self.state
        state.position += 1
        kept = state.topics.get(topic)
        if kept is None:
            kept = state.topics[topic] = Kept(evicted=state.forgotten)
        number = len(self.all) + 1
        record = Record(
            topic=topic, event=None, body=b"%d" % number, text=False, epoch=state.epoch,
            position=state.position, previous=kept.head, published_at=self.now(),
        )  # fmt: skip
        kept.records += (record,)
        kept.head = record.position
        fact = self.all[number] = Fact(number, record.position, topic, record.published_at)
        self.facts.append(fact)
        self._expire(kept)
        self.saved[state.position] = state.copy()
        for line in self.lines:
            line.push(record)
        return record

    def _expire(self, kept):
        size, ttl = self.config.history_size, self.config.history_ttl
        oldest = float("-inf") if ttl is None else self.now() - ttl
        while kept.records and (len(kept.records) > size or kept.records[0].published_at < oldest):
            self._drop(kept)

    def _drop(self, kept):
        kept.evicted = max(kept.evicted, kept.records[0].position)
        self.lost.add(int(kept.records[0].body))
        kept.records = kept.records[1:]

    def trim(self, topic):
        """Memory is short: the oldest goes early."""
        kept = self.state.topics.get(topic)
        if kept is not None and kept.records:
            self._drop(kept)

    def forget(self):
        """Topics of which nothing is kept share one number from here on."""
        state = self.state
        for topic, kept in list(state.topics.items()):
            self._expire(kept)
            if not kept.records:
                del state.topics[topic]
                state.forgotten = max(state.forgotten, kept.evicted)
        self.blurred = max(self.blurred, state.forgotten)

    def read(self, names):
        patterns = [compile_pattern(name) for name in names]
        topics = {}
        for topic, kept in self.state.topics.items():
            self._expire(kept)
            if any(pattern.fullmatch(topic) for pattern in patterns):
                topics[topic] = TopicHistory(records=kept.records, evicted=kept.evicted)
        return Snapshot(
            tail=self.tail, topics=topics, forgotten=self.state.forgotten,
            ancestors=dict(self.state.ancestors),
        )  # fmt: skip

    def may_have_lost(self, fact):
        """Has the log lost it, or may the hub have, by its own clock?"""
        ttl = self.config.history_ttl
        old = ttl is not None and fact.published_at < self.clock.time() - ttl
        return old or fact.number in self.lost

    def flush(self):
        self._restart(State(), ancestors={})

    def go_back(self, lost, *, knows):
        """Come back with an older state. ``knows``: with the epochs that were begun after it."""
        end = max(0, self.state.position - lost)
        old = self.saved[end].copy()
        ancestors = dict(old.ancestors)
        if knows:
            ancestors = {**self.state.ancestors, self.state.epoch: end}
        ancestors[old.epoch] = end
        self._restart(old, {epoch: min(at, end) for epoch, at in ancestors.items()})

    def _restart(self, state, ancestors):
        self.logs[self.state.epoch] = self.facts
        self.undone.append({fact.topic for fact in self.facts if fact.position > state.position})
        self.facts = [fact for fact in self.facts if fact.position <= state.position]
        self.saved = {at: saved for at, saved in self.saved.items() if at < state.position}
        state.epoch, state.ancestors = f"e{len(self.undone)}", ancestors
        self.numbers[state.epoch] = len(self.undone)
        self.state = state
        self.saved[state.position] = state.copy()
        manner = self.rng.choice(["cut", "interrupt", "silent"])
        self.faults[f"restart, {manner}"] += 1
        for line in list(self.lines):
            if manner == "cut":
                line.cut()
            elif manner == "interrupt":
                line.put(Interruption())


class Link(BusBackend):
    """One process's way to the broker."""

    def __init__(self, config, broker):
        super().__init__(config)
        self.broker = broker
        self.rng = broker.rng
        #: How likely a request fails, and how likely it takes too long.
        self.failing, self.hanging = self.rng.choice([(0, 0), (0.02, 0.01), (0.15, 0.03)])

    async def travel(self):
        broker, rng = self.broker, self.rng
        if broker.calm:
            await asyncio.sleep(0.001)
            return
        if rng.random() < 0.5:
            await asyncio.sleep(rng.choice([0, 0.001, 0.05, 0.5]))
        if rng.random() < self.hanging:
            broker.faults["request hangs"] += 1
            await asyncio.sleep(rng.uniform(3, 12))
        if rng.random() < self.failing or broker.down_until > broker.clock.monotonic():
            broker.faults["request fails"] += 1
            raise BackendUnavailable("the network is down")

    async def ask(self, question):
        await self.travel()
        answer = question()
        await self.travel()
        return answer

    async def atail(self):
        return await self.ask(lambda: self.broker.tail)

    async def aread(self, names):
        names = list(names)
        return await self.ask(lambda: self.broker.read(names))

    def listen(self):
        return Line(self)

    def publish(self, draft):
        raise NotImplementedError

    tail = read = flush = publish


class Line(Listener):
    """One connection. What is pushed arrives in order, some time later, or never."""

    def __init__(self, link):
        self._link, self._broker, self._rng = link, link.broker, link.broker.rng
        #: What the broker knows that this one wants.
        self.names = {}
        self._arrivals = deque()
        self._stirred = asyncio.Event()
        self._error = None
        self._closed = False
        self._latest = 0.0
        self._held_until = 0.0
        self._probes = set()
        self._broker.lines.append(self)

    @property
    def broken(self):
        return self._error is not None

    # The broker's side

    def push(self, record):
        if any(pattern.fullmatch(record.topic) for pattern in self.names.values()):
            self.put(record)

    def put(self, one):
        broker = self._broker
        delays = [0, 0.3, 2.0, 5.0] if broker.slow else [0, 0, 0.001, 0.02, 0.3]
        delay = 0.0 if broker.calm else self._rng.choice(delays)
        now = broker.clock.monotonic()
        self._latest = max(self._latest, now + delay, 0.0 if broker.calm else self._held_until)
        self._arrivals.append((self._latest, one))
        self._stirred.set()

    def hold(self, seconds):
        self._held_until = self._broker.clock.monotonic() + seconds

    def overflow(self):
        """What is under way is given up, with a word."""
        if self._arrivals:
            self._arrivals = deque([(self._latest, Interruption())])

    def make_hole(self):
        """Lose an event whose topic's next one is right behind it."""
        pairs = zip(self._arrivals, list(self._arrivals)[1:], strict=False)
        for index, ((_, one), (_, two)) in enumerate(pairs):
            if isinstance(one, Record) and isinstance(two, Record) and one.topic == two.topic:
                # Together, so that nobody can be told of a place between the two.
                del self._arrivals[index]
                # The second is given up with it.
                self._broker.lost.update((int(one.body), int(two.body)))
                return

    def cut(self):
        self._arrivals.clear()
        self._fail(BackendUnavailable("cut"))

    def _fail(self, error):
        self._error = error
        if self in self._broker.lines:
            self._broker.lines.remove(self)
        self._stirred.set()

    # The hub's side

    def _check(self):
        if self._closed or self._error is not None:
            raise BackendUnavailable("not connected") from self._error

    async def watch(self, names):
        names = list(names)
        self._check()
        await self._link.travel()
        self._check()
        self.names.update({name: compile_pattern(name) for name in names})
        await self._link.travel()
        self._check()

    async def unwatch(self, names):
        names = list(names)
        self._check()
        await self._link.travel()
        for name in names:
            self.names.pop(name, None)

    async def probe(self):
        task = asyncio.get_running_loop().create_task(self._probe())
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self):
        try:
            tail = await self._link.atail()
            await self._link.travel()
        except BackendUnavailable as error:
            self._fail(error)
            return
        if self._error is None and not self._closed:
            self.put(tail)

    async def __aiter__(self):
        while True:
            while not self._arrivals and self._error is None and not self._closed:
                self._stirred.clear()
                await self._stirred.wait()
            if self._closed:
                return
            if self._error is not None:
                raise self._error
            await asyncio.sleep(max(0.0, self._arrivals[0][0] - self._broker.clock.monotonic()))
            batch = []
            now = self._broker.clock.monotonic()
            while self._arrivals and self._arrivals[0][0] <= now:
                one = self._arrivals.popleft()[1]
                if isinstance(one, Record):
                    batch.append(one)
                    continue
                if batch:
                    yield batch
                    batch = []
                yield one
            if batch:
                yield batch

    async def aclose(self):
        self._closed = True
        if self in self._broker.lines:
            self._broker.lines.remove(self)
        self._stirred.set()
        for task in list(self._probes):
            task.cancel()
