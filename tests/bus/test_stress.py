"""Many publishers, many streams that come and go: every event once and in order, none lost."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from flosse_bus import bus
from flosse_bus.readers import AsyncReader, ThreadReader
from flosse_bus.wire import Decoder
from tests import TORTURE

PUBLISHERS = 50
EVENTS = 20_000
TOPICS = 200
STREAMS = 100
SEEDS = range(100, 160) if TORTURE else [100]


class Client:
    """An EventSource that is cut at random and comes back with its last id."""

    def __init__(self, seed):
        self.random = random.Random(f"client {seed}")
        self.names = [
            f"load.{n}" for n in self.random.sample(range(TOPICS), self.random.randint(1, 8))
        ]
        if self.random.random() < 0.1:
            self.names = ["load.*"]
        self.got = []
        self.expected = None  # the ids that it must get, known once all is published
        self.resets = 0
        self.cuts = 0
        self.last_id = bus.cursor()
        self.decoder = Decoder()

    def receive(self, items):
        """Take some of the bytes; true when the connection is cut, maybe in mid-block."""
        data = b"".join(item.frame(envelope=True) for item in items)
        cut = self.random.random() < 0.3
        if cut:
            data = data[: self.random.randint(0, len(data))]
        for block in self.decoder.feed(data):
            self.last_id = block.id
            self.resets += block.event == "stream-reset"
            if block.event == "message" and block.data is not None:
                self.got.append(block)
        if cut:
            self.cuts += 1
            self.decoder = Decoder()
        return cut

    def finished(self):
        return self.expected is not None and len(self.got) >= len(self.expected)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_doubled_or_reordered(run, monkeypatch, seed):
    monkeypatch.setattr("flosse_bus.feed.PATIENCE", 60.0)  # no loop is quick beside all this
    sent = {}
    lock = threading.Lock()
    clients = [Client(f"{seed} {n}") for n in range(STREAMS)]

    def publish(publisher):
        choose = random.Random(f"publisher {seed} {publisher}")
        for n in range(EVENTS // PUBLISHERS):
            topic = f"load.{choose.randrange(TOPICS)}"
            event = bus.publish(topic, {"by": publisher, "n": n})
            with lock:
                sent[int(event.id.rpartition("-")[2])] = (topic, event.id)

    async def follow(client):
        while not client.finished():
            reader = await AsyncReader.open(
                bus.hubs.here(), client.names, after=client.last_id, heartbeat=0.1
            )
            try:
                while not client.receive(await reader.read()):
                    if client.finished():
                        break
            finally:
                reader.close()

    def follow_in_thread(client):
        while not client.finished():
            reader = ThreadReader(
                bus.hubs.threaded(), client.names, after=client.last_id, heartbeat=0.1
            )
            try:
                while not client.receive(reader.read()):
                    if client.finished():
                        break
            finally:
                reader.close()

    async def main():
        publishers = [threading.Thread(target=publish, args=(n,)) for n in range(PUBLISHERS)]
        for thread in publishers:
            thread.start()
        tasks = [asyncio.create_task(follow(client)) for client in clients[:80]]
        await asyncio.gather(*[asyncio.to_thread(thread.join) for thread in publishers])
        log = [event for _, event in sorted(sent.items())]
        for client in clients:
            client.expected = [
                id for topic, id in log if topic in client.names or client.names == ["load.*"]
            ]
        await asyncio.gather(*tasks)

    threads = [threading.Thread(target=follow_in_thread, args=(c,)) for c in clients[80:]]
    for thread in threads:
        thread.start()
    run(main(), timeout=60)
    for thread in threads:
        thread.join(30)

    assert len(sent) == EVENTS
    for client in clients:
        assert [block.id for block in client.got] == client.expected
        assert client.resets == 0
    assert sum(client.cuts for client in clients) > STREAMS
