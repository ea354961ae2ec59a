"""Real clients among the streams: two browsers and three libraries, each behind a proxy that cuts.

What they show is written down as the streams' entries are, and judged alike.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from urllib.parse import urlencode

from tests.clients import hosts, packages
from tests.clients.cutter import Cutter, Loop
from tests.clients.desk import Desk
from tests.processes import wait_until
from tests.proxies import Certificate
from tests.torture.topics import TOPICS, covered

#: Where each runs, and its name in the matrix of clients.
CLIENTS = [
    ("chromium", "Chromium"),
    ("firefox", "Firefox"),
    ("node", "eventsource 4"),
    ("python", "httpx-sse"),
    ("python", "sseclient-py"),
]
#: Those that live in pages.
BROWSERS = ("chromium", "firefox")
NAMES = ["stream-open", "stream-ping", "stream-reset", "stream-error"]


class Client:
    """One client. It has what a stream of the torture run has for its judge."""

    def __init__(self, host, name, seed, cutter):
        self.random = random.Random(f"client {name} {seed}")
        self.host, self.name, self.cutter = host, name, cutter
        self.names = self.random.sample(TOPICS, 2)
        self.topics = set().union(*map(covered, self.names))
        self.run = None
        self.entries = []
        self.times = []

    @property
    def place(self):
        """The epoch and position that it has got to."""
        for _, id, *_ in reversed(self.entries):
            epoch, _, position = id.rpartition("-")
            return epoch, int(position)
        return "", -1

    def read(self, seen):
        """Take down what its screen has shown up to now."""
        self.entries = [("open", "", 0)]
        for one in seen:
            if one["kind"] != "event" or not one.get("id"):
                continue
            data = json.loads(one["data"])
            if one["event"] == "message":
                self.entries.append(("event", one["id"], data))
            elif one["event"] == "stream-reset":
                reset = ("reset", one["id"], data["topics"], data["reason"], time.monotonic())
                self.entries.append(reset)
            elif one["event"] in ("stream-open", "stream-ping"):
                self.entries.append(("mark", one["id"]))
        if len(self.entries) > 1:
            self.entries = self.entries[1:]


class Clients:
    """All that are on this machine. ``absent`` says why the others are not."""

    def __init__(self, seed, ports, cut_after, directory):
        self.seed, self.ports, self.cut_after = seed, ports, cut_after
        self.directory = directory
        self.absent = []
        self.all = []
        self.desk = Desk()
        self.cuts = 0
        self._over = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self._stack.close()

    def _start(self):
        enter = self._stack.enter_context
        installed = None
        try:
            installed = packages.install()
        except packages.Missing as reason:
            self.absent.append(str(reason))
        enter(self.desk)
        loop = enter(Loop())
        certificate = Certificate(self.directory)  # which nobody needs over plain HTTP
        for host in dict.fromkeys(host for host, _ in CLIENTS):
            reason = hosts.lacks(host)
            if reason or (host == "node" and installed is None):
                self.absent.append(reason or host)
                continue
            home = self.directory / host
            home.mkdir()
            enter(hosts.start(host, self.desk, home, installed, certificate, []))
            for name in [name for where, name in CLIENTS if where == host]:
                client = Client(host, name, self.seed, enter(Cutter(loop)))
                self.all.append(client)
                self._follow(client)
        for client in self.all:
            wait_until(lambda c=client: self.desk.seen(c.run), f"{client.name} to begin")
        thread = threading.Thread(target=self._cut)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._over.set)

    def _follow(self, client):
        client.cutter.point(client.random.choice(self.ports))
        origin = f"http://127.0.0.1:{client.cutter.port}"
        query = urlencode([("envelope", 1), *(("topic", name) for name in client.names)])
        order = {"url": f"{origin}/?{query}", "names": NAMES, "patience": 20_000}
        if client.host in BROWSERS:
            order["page"] = f"{origin}/client/{client.name}/"
        client.run = self.desk.start(client.host, client.name, **order)

    def _cut(self):
        """Cut each of them from time to time. It comes back to whichever server that is then."""
        due = {client: self._next(client) for client in self.all}
        while not self._over.wait(0.05):
            for client, at in due.items():
                if time.monotonic() >= at and not self._over.is_set():
                    client.cutter.point(client.random.choice(self.ports))
                    self.cuts += 1
                    due[client] = self._next(client)

    def _next(self, client):
        return time.monotonic() + client.random.expovariate(1 / self.cut_after)

    def behind(self, tail):
        """Return those that have not got as far as this cursor."""
        epoch, _, position = tail.rpartition("-")
        for client in self.all:
            client.read(self.desk.seen(client.run))
        return [
            client
            for client in self.all
            if client.place[0] != epoch or client.place[1] < int(position)
        ]
