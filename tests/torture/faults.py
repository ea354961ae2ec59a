"""What is broken, and how. Each fault runs in a thread of its own lane and returns when it is over
for the one who did it; the others have yet to notice.
"""

from __future__ import annotations

import random
import threading
import time

from tests.brokers import PostgresServer, RedisServer


class RedisFaults:
    """``volatile``: its data is gone after a crash. ``rollback``: the newest part of it is."""

    def __init__(self, directory, *, binary=None, volatile=False, rollback=False):
        # With fsync before each answer nothing that was returned or heard can be lost.
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        self.server = RedisServer(directory, binary=binary, args=[] if volatile else durable)
        self.rollback = rollback
        self.kinds = [self.kill_listeners, self.kill_clients, self.pause, self.crash]

    @property
    def bus(self):
        return {
            "BACKEND": "flosse_bus.backends.redis.RedisBackend",
            "LOCATION": self.server.url,
        }

    env = {}

    def prepare(self, run):
        """Nothing to make."""

    def kill_listeners(self, choose):
        self.server.execute("CLIENT", "KILL", "TYPE", "pubsub")

    def kill_clients(self, choose):
        self.server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def pause(self, choose, seconds=2.0):
        self.server.pause()
        pace(seconds)
        self.server.resume()

    def crash(self, choose):
        self.server.kill()
        if self.rollback:
            self._forget_the_newest(choose)
        pace(choose.uniform(0, 0.5))
        self.server.start()

    def _forget_the_newest(self, choose):
        files = [*self.server.directory.glob("**/*.incr.aof")]
        files = files or [*self.server.directory.glob("appendonly.aof")]
        with max(files).open("rb+") as file:
            data = file.read()
            # Between two publishes: cut off in one of them, Redis 7.0 would leave its beginning
            # in the file, and take it for part of the next one when it loads that again.
            near = max(0, len(data) - choose.randrange(20_000))
            file.truncate(max(0, data.rfind(b"*1\r\n$5\r\nMULTI\r\n", 0, near)))

    def long_pause(self, choose):
        """Longer than anybody waits for an answer."""
        self.pause(choose, choose.uniform(5, 8))


class PostgresFaults:
    def __init__(self, directory, *, bin=None, logged=True):
        # What is killed here is processes, not the machine, so nothing needs to reach the disk.
        self.server = PostgresServer(directory, bin=bin, settings={"max_connections": 200})
        self.logged = logged
        self.kinds = [
            self.end_listeners, self.end_clients, self.pause, self.restart_fast, self.crash,
        ]  # fmt: skip

    @property
    def bus(self):
        return {
            "BACKEND": "flosse_bus.backends.postgres.PostgresBackend",
            "OPTIONS": {"logged": True} if self.logged else {},
        }

    @property
    def env(self):
        return {"TORTURE_POSTGRES": self.server.uri}

    def prepare(self, run):
        run("-m", "django", "migrate", "--verbosity=0")

    def end_listeners(self, choose):
        self._end("flosse_bus listener")

    def end_clients(self, choose):
        self._end("flosse_bus publisher")

    def _end(self, name):
        self.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            name,
        )

    def pause(self, choose, seconds=2.0):
        self.server.pause()
        pace(seconds)
        self.server.resume()

    def restart_fast(self, choose):
        self.server.restart("fast")

    def crash(self, choose):
        self.server.crash()
        self.server.start()

    def long_pause(self, choose):
        self.pause(choose, choose.uniform(5, 8))


def pace(seconds):
    """Let time pass, as the schedule of the faults has it."""
    threading.Event().wait(seconds)


def schedule(kinds, seed):
    """Yield kinds for ever, at random, each once in every round of them."""
    choose = random.Random(f"faults {seed}")
    while True:
        yield from choose.sample(kinds, len(kinds))


class Lane:
    """Breaks one thing after the other in a thread until it is told to stop."""

    def __init__(self, kinds, seed, every, counter):
        self.seed, self.choose = seed, random.Random(f"lane {seed}")
        self.all, self.every, self.counter = kinds, every, counter
        self.failure = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def _run(self):
        kinds = schedule(self.all, self.seed)
        next_one = time.monotonic()
        try:
            while not self._stop.wait(max(0, next_one - time.monotonic())):
                kind = next(kinds)
                kind(self.choose)
                self.counter[kind.__name__] += 1
                next_one = max(next_one + self.every, time.monotonic())
        except BaseException as error:
            self.failure = error
