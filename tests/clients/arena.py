"""All clients at once, each through a proxy of its own in front of one server."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from flosse_bus import bus
from tests.clients import hosts
from tests.clients.cutter import Cutter, Loop
from tests.clients.desk import Desk
from tests.clients.roster import ROSTER
from tests.processes import Project

NAMES = ["item", "stream-open", "stream-ping", "stream-reset", "stream-error"]
#: Milliseconds without a sign of life after which a client comes back, in the case that needs it.
PATIENCE = 1500
HISTORY = 60
#: A topic of which enough is kept for clients that are away for long.
KEPT = "load.kept"
KEEPING = {"HISTORY_SIZE": HISTORY, "TOPICS": {KEPT: {"HISTORY_SIZE": 10_000}}}
BUS = {"HEARTBEAT": 0.5, "RETRY": 200, "PUBLIC_TOPICS": ["load.**"], **KEEPING}
#: Seconds between events that ask whether a client has a stream, where it does not say so itself.
PROBE = 0.5
#: Seconds for which a client may be behind all others, where it is known that it never comes.
GRACE = 1.0


@dataclass
class Seat:
    """One client and its proxy."""

    client: object
    cutter: Cutter
    run: int | None = None
    page: str | None = None


class Arena:
    """Everything that runs for the matrix. ``shared`` is what the server's bus needs."""

    def __init__(self, directory, shared, certificate):
        self.directory, self.certificate = directory, certificate
        self.bus = {**shared, **BUS}
        self.seats = []
        self.absent = {}
        self.versions = {}
        #: By case and client, what the tests have found; by client, how long it stayed away.
        self.results, self.returns = {}, {}
        #: Who has shown messages without data.
        self.empty = set()
        self.desk = Desk()
        self.server = None
        self.naive = False
        self._stack = contextlib.ExitStack()
        self._number = 0

    def start(self, installed, why_not):
        """Start the server and every host that is on this machine. ``installed`` may be ``None``."""
        enter = self._stack.enter_context
        enter(self.desk)
        loop = enter(Loop())
        self._installed = installed
        self.serve()
        self._stack.callback(lambda: self.server.stop())
        for host in hosts.HOSTS:
            reason = hosts.lacks(host)
            clients = [client for client in ROSTER if client.host == host]
            here = []
            for client in clients:
                npm = client.package is not None and host != "python"
                missing = reason or (why_not if npm and installed is None else None)
                if missing:
                    self.absent[client.name] = missing
                else:
                    here.append(Seat(client, enter(Cutter(loop))))
            if not here:
                continue
            home = self.directory / host
            home.mkdir()
            enter(
                hosts.start(
                    host, self.desk, home, installed, self.certificate,
                    [seat.cutter.port for seat in here],
                )
            )  # fmt: skip
            self.seats += here
            for seat in here:
                self.versions[seat.client.name] = hosts.version(seat.client, installed)

    def close(self):
        self._stack.close()

    def serve(self):
        """Start the server, where it was before."""
        env = {
            "DJANGO_SETTINGS_MODULE": "tests.clients.settings",
            "CLIENTS_PACKAGES": str(self._installed or ""),
        }
        port = self.server.port if self.server else None
        self.server = Project("uvicorn", self.directory, port=port, bus=self.bus, env=env)

    @contextlib.contextmanager
    def only(self, clients):
        """Let no others take part, and these without what their users must do."""
        everybody = self.seats
        self.seats = [seat for seat in everybody if seat.client in clients]
        self.naive = True
        try:
            yield
            self.stop()
        finally:
            self.seats, self.naive = everybody, False

    # A case

    def publish(self, *topics_and_names):
        """Publish an event for each, and return their numbers."""
        published = []
        for topic, name in topics_and_names:
            self._number += 1
            data = (
                '<turbo-stream action="append" targets=".log">'
                f"<template><i>{self._number}</i></template></turbo-stream>"
            )
            bus.publish(topic, data, event=name)
            if name is None:
                self._publish_in("datastar", topic, f"<i>{self._number}</i>")
            published.append((self._number, name))
        return published

    def _publish_in(self, dialect, topic, html):
        """Publish what only one library reads, for those who follow the topic in its format."""
        data = f"selector .log\nmergeMode append\nfragments {html}"
        bus.publish(f"{topic}.{dialect}", data, event="datastar-merge-fragments")

    def follow(self, topics, upstream=None, scheme="http", patience=None, query=()):
        """Have all clients follow topics, and wait until each has an opening."""
        self._scheme, self._topics, self._probe_next = scheme, topics, 0.0
        for seat in self.seats:
            seat.cutter.point(upstream or self.server.port)
            origin = f"{scheme}://127.0.0.1:{seat.cutter.port}"
            dialect = f".{seat.client.dialect}" if seat.client.dialect else ""
            fields = [*(("topic", f"{topic}{dialect}") for topic in topics), *query]
            url = f"{origin}/events/?{urlencode(fields)}"
            order = {"url": url, "names": NAMES, "naive": self.naive}
            if scheme == "https":
                order["trust"] = str(self.certificate.authority)
            if patience:
                order["patience"] = patience
            page = f"{origin}/client/{seat.client.name}/"
            moved = page != seat.page or seat.client.dialect is not None
            if moved and seat.client.host in ("chromium", "firefox", "webkit"):
                order["page"] = seat.page = page
            seat.run = self.desk.start(seat.client.host, seat.client.name, **order)
        self.wait(self.opened, "an opening")

    def stop(self):
        """Have all clients close their streams."""
        for seat in self.seats:
            if seat.run is not None:
                leave = seat.client.dialect is not None  # nothing else ends what it has begun
                self.desk.stop(seat.client.host, seat.client.name, seat.run, leave=leave)
                seat.run = None

    def seen(self, seat):
        return self.desk.seen(seat.run)

    def opened(self, seat):
        entries = self.seen(seat)
        broken = [entry for entry in entries if entry["kind"] == "broken"]
        assert not broken, (seat.client.name, broken)
        if not seat.client.shows_own:
            if self._scheme == "https":
                return self._probed(seat, entries)
            return bool(entries) and seat.cutter.has_sent(b"event: stream-open")
        kinds = ("stream-open", "stream-reset")
        return any(entry.get("event") in kinds for entry in entries)

    def _probed(self, seat, entries):
        """Whether it has shown an event that does not count; such are published until it has."""
        shown = any(entry["kind"] == "event" for entry in entries)
        if entries and not shown and time.monotonic() > self._probe_next:
            self._probe_next = time.monotonic() + PROBE
            for topic in self._topics:
                self._publish_in(seat.client.dialect, topic, "<b>probe</b>")
        return shown

    def wait(self, condition, what, case=None, deadline=30.0):
        """Wait until a condition holds for every client.

        In a case, those that cannot are not waited for long, and those that do not are left to
        the verdict. Without one it must hold for all.
        """
        end = time.monotonic() + deadline
        others = None
        while True:
            behind = [seat for seat in self.seats if not condition(seat)]
            if not behind:
                return
            if case and (self.naive or all(case in seat.client.limits for seat in behind)):
                others = others or time.monotonic()
                if time.monotonic() > others + GRACE:
                    break
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        if case is None:
            seen = {seat.client.name: self.seen(seat)[-5:] for seat in behind}
            raise AssertionError(f"not within {deadline} s: {what}: {seen}")

    def reconnected(self):
        """Return, for each client, how many seconds it took to come back from each cut."""
        return {
            seat.client.name: [
                back - cut for cut, back in zip(seat.cutter.cuts, seat.cutter.returns, strict=False)
            ]
            for seat in self.seats
        }
