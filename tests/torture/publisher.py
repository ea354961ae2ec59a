"""A process that publishes and keeps a journal, or that ends the run and writes down the log.

``python -m tests.torture.publisher publish JOURNAL NAME SEED RATE`` until SIGTERM. The journal has
a line of JSON for each publish, ``[kind, n, topic, time, id or error]``: "returned", or "failed",
which may or may not have been appended. ``["log", epoch, ancestors]`` is written for each epoch.

``python -m tests.torture.publisher finish REPORT`` publishes one last event to each topic.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
import time

import django

from tests.torture.topics import TOPICS


class Journal:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)  # noqa: SIM115  # because it stays open
        self.epoch = None

    def write(self, *line):
        self.file.write(json.dumps(line) + "\n")

    def note_epoch(self, bus, id):
        """Ask how a log that has a new name has come about."""
        from flosse_bus.exceptions import BackendUnavailable

        if id.partition("-")[0] == self.epoch:
            return
        try:
            snapshot = bus.backend.read([])
        except BackendUnavailable:
            return  # the next event asks again
        self.epoch = snapshot.tail.epoch
        self.write("log", self.epoch, dict(snapshot.ancestors))


def publish(path, name, seed, rate):
    from flosse_bus import bus
    from flosse_bus.exceptions import BackendUnavailable

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    journal = Journal(path)
    choose = random.Random(f"publisher {name} {seed}")
    # One of them is async code, whose backend calls run in other threads.
    loop = asyncio.new_event_loop() if name == "2" else None
    n = 0
    while not stop.wait(choose.expovariate(float(rate))):
        topic = choose.choice(TOPICS)
        data = {"p": name, "n": n, "pad": "x" * choose.choice([0, 50, 400])}
        try:
            if loop is not None:
                event = loop.run_until_complete(bus.apublish(topic, data, using=None))
            else:
                event = bus.publish(topic, data, using=None)
        except BackendUnavailable as error:
            journal.write("failed", n, topic, time.monotonic(), str(error))
        else:
            journal.write("returned", n, topic, time.monotonic(), event.id)
            journal.note_epoch(bus, event.id)
        n += 1


def finish(path):
    from flosse_bus import bus
    from flosse_bus.exceptions import BackendUnavailable

    end = time.monotonic() + 60
    for topic in TOPICS:
        while True:
            try:
                bus.publish(topic, {"p": "end", "n": topic}, using=None)
                break
            except BackendUnavailable:
                if time.monotonic() > end:
                    raise
    snapshot = bus.backend.read(TOPICS)
    report = {
        "tail": str(snapshot.tail),
        "ancestors": dict(snapshot.ancestors),
        "topics": {
            topic: {
                "evicted": history.evicted,
                "events": [[str(r.cursor), json.loads(r.body)] for r in history.records],
            }
            for topic, history in snapshot.topics.items()
        },
    }
    with open(path, "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    django.setup()
    {"publish": publish, "finish": finish}[sys.argv[1]](*sys.argv[2:])
