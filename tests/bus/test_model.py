"""Ring, cursor, subscription and hub against a plain list that forgets nothing.

Whatever is done in whatever order, each client must have received every event of its topics, in
order and once, or have been told of a loss that really happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.conf import load
from flosse_bus.cursor import Cursor
from flosse_bus.hub import Hub
from flosse_bus.message import Mark, Message, Opening, Reset
from flosse_bus.notices import Notices
from flosse_bus.test import item
from flosse_bus.topics import compile_pattern
from tests import TORTURE

TOPICS = ["a", "b", "c.1", "c.2"]
NAMES = [*TOPICS, "c.*", "**", "never"]
KEPT = 4
PENDING = 3

topics = st.sampled_from(TOPICS)
subscriptions = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
some = st.integers(0, 1000)


@functools.cache
def covers(name, topic):
    return compile_pattern(name).fullmatch(topic) is not None


class Client:
    """What an EventSource keeps, and what the model knows of it."""

    def __init__(self, names, at, last_id, excused):
        self.names = names
        self.at = at  # everything up to here is received or excused
        self.last_id = last_id
        self.excused = dict(excused)  # topic: position up to which a loss has been reported
        self.subscription = None

    def wants(self, topic):
        return any(covers(name, topic) for name in self.names)


class Log(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        config = dataclasses.replace(
            load("default"), history_size=KEPT, history_ttl=None, max_pending=PENDING
        )
        self.backend = MemoryBackend(config)
        self.hub = self.go(self._make(config))
        self.published = []  # (position, topic) of this epoch
        self.clients = []
        self.ids = []  # (epoch, position) that somebody may come with

    async def _make(self, config):
        return Hub(self.backend, config, Notices(config.alias))

    def go(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def teardown(self):
        try:
            self.settle()
        finally:
            self.go(self.hub.aclose())
            self.loop.close()

    # What may happen

    @rule(topic=topics, count=st.integers(1, 6))
    def publish(self, topic, count):
        for _ in range(count):
            record = self.backend.publish(item(topic, self.tail + 1))
            self.published.append((record.position, topic))
            self.ids.append(record.cursor)

    @rule()
    def let_the_loop_run(self):
        self.go(asyncio.sleep(0))
        self.go(asyncio.sleep(0))

    @rule(names=subscriptions)
    def subscribe_now(self, names):
        self._open(Client(tuple(names), self.tail, None, {}), None)

    @rule(names=subscriptions)
    def subscribe_from_the_earliest(self, names):
        client = Client(tuple(names), 0, None, {})
        # Of what was lost before, the stream says so at its beginning.
        client.excused = {t: max((p for p, x in self.lost() if x == t), default=0) for t in TOPICS}
        current = self.hub.board.tail == self.backend.tail()
        self._open(client, "earliest")
        if current:
            lost = any(client.wants(topic) for _, topic in self.lost())
            assert client.subscription.resets == lost

    @rule(names=subscriptions, which=some)
    def subscribe_from_an_id(self, names, which):
        if self.ids:
            cursor = self.ids[which % len(self.ids)]
            self._open(Client(tuple(names), cursor.position, str(cursor), {}), str(cursor))

    @rule(which=some)
    def take_once(self, which):
        self._take(which, times=1)

    @rule(which=some)
    def take_all(self, which):
        self._take(which, times=1000)

    @rule(which=some)
    def heartbeat(self, which):
        if self.clients:
            client = self.clients[which % len(self.clients)]
            client.subscription.beat(float("inf"), 0.0)
            self._receive(client, client.subscription.take())

    @rule(which=some)
    def cut_and_resume(self, which):
        if self.clients:
            client = self.clients.pop(which % len(self.clients))
            self.hub.close(client.subscription)
            if client.last_id == "earliest":  # it has seen nothing yet, and asks for all again
                self.subscribe_from_the_earliest(client.names)
            elif client.last_id is not None:
                self._open(client, client.last_id)

    @rule(which=some)
    def leave(self, which):
        if self.clients:
            self.hub.close(self.clients.pop(which % len(self.clients)).subscription)

    @rule()
    def interrupt(self):
        for listener in self.backend._listeners:
            listener.interrupt()

    @rule()
    def sweep(self):
        self.go(self.hub.feed.sweep(linger=-1))

    @rule()
    def flush(self):
        self.backend.flush()
        self.published.clear()

    # What must hold

    @invariant()
    def bounds_hold(self):
        for client in self.clients:
            assert len(client.subscription._pending) <= PENDING + 2  # and a reset and a mark
        for channel in self.hub.board._channels.values():
            assert channel.ring.head <= self.hub.board.position

    def settle(self):
        """When all is read, everybody stands at the end."""
        for _ in range(1000):
            if self.hub.feed._listener is None or self.hub.feed.is_at(self.backend.tail()):
                break
            self.let_the_loop_run()
        for index, client in enumerate(self.clients):
            self._take(index, times=1000)
            missing = [
                p for p, topic in self.published if p > client.at and self._due(client, p, topic)
            ]
            assert missing == [], f"never delivered to {client.names}: {missing}"

    # How it is judged

    @property
    def tail(self):
        return self.published[-1][0] if self.published else 0

    def lost(self):
        """What the log has dropped: all but the last KEPT of each topic."""
        gone = []
        for topic in TOPICS:
            mine = [(p, t) for p, t in self.published if t == topic]
            gone += mine[:-KEPT]
        return gone

    def _due(self, client, position, topic):
        return client.wants(topic) and position > client.excused.get(topic, 0)

    def _open(self, client, after):
        subscribe = self.hub.open(client.names, after=after, signal=asyncio.Event())
        client.subscription = self.go(subscribe)
        self.clients.append(client)
        assert client.subscription.closed is None

    def _take(self, which, times):
        if self.clients:
            client = self.clients[which % len(self.clients)]
            for _ in range(times):
                items = client.subscription.take()
                if not items:
                    break
                self._receive(client, items)

    def _receive(self, client, items):
        for one in items:
            if isinstance(one, Message):
                self._receive_message(client, one.record)
            elif isinstance(one, Reset):
                self._receive_reset(client, one)
            else:
                assert isinstance(one, (Mark, Opening))
                self._receive_mark(client, one)

    def _receive_message(self, client, record):
        if record.epoch != self.backend.tail().epoch:
            client.at = -1  # of a log that is gone; the reset is on its way
            client.last_id = str(record.cursor)
            return
        assert client.wants(record.topic)
        assert record.position > max(client.at, 0), "again, or out of order"
        skipped = [
            p
            for p, topic in self.published
            if max(client.at, 0) < p < record.position and self._due(client, p, topic)
        ]
        assert skipped == [], f"skipped in silence: {skipped}"
        client.at = record.position
        client.last_id = str(record.cursor)

    def _receive_reset(self, client, reset):
        if reset.id == "earliest":  # what is kept comes after it
            assert any(covers(n, t) for _, t in self.lost() for n in reset.topics)
            client.last_id = reset.id
            return
        cursor = Cursor.parse(reset.id)
        if cursor.epoch == self.backend.tail().epoch and reset.reason != "unknown":
            gone = [
                p for p, topic in self.lost()
                if p > client.at and any(covers(n, topic) for n in reset.topics)
            ]  # fmt: skip
            assert gone, f"reset {reset} although nothing is lost"
        excused = [t for t in TOPICS if any(covers(n, t) for n in reset.topics)]
        for topic in excused:
            client.excused[topic] = self.tail
        client.at = cursor.position
        client.last_id = reset.id

    def _receive_mark(self, client, mark):
        client.last_id = mark.id
        if mark.id == "earliest":
            return
        epoch, _, position = mark.id.rpartition("-")
        if epoch != self.backend.tail().epoch:
            return
        position = int(position)
        skipped = [
            p for p, topic in self.published
            if client.at < p <= position and self._due(client, p, topic)
        ]  # fmt: skip
        assert skipped == [], f"a mark hides {skipped}"
        client.at = max(client.at, position)


Log.TestCase.settings = settings(
    max_examples=20_000 if TORTURE else 250,
    stateful_step_count=40,
    phases=(Phase.generate,),  # a failure is printed as it is: shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)
TestLog = Log.TestCase
