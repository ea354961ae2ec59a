"""One run: everything is started, broken for some seconds, left to recover, and judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from tests.processes import ROOT, Process, accepts, free_port, wait_until
from tests.torture.clients import Clients
from tests.torture.faults import Lane
from tests.torture.streams import Streams
from tests.torture.verdict import Report, judge

SERVERS = 3
PUBLISHERS = 3
STREAMS = 100
#: Seconds in which everybody must have got to the end of the log once nothing is broken any more.
RECOVERY = 60.0


class Arena:
    """``broker`` is one of the classes in faults.py. ``rate`` is events per second, of each."""

    def __init__(
        self, broker, directory, *, seed, seconds, rate=40, history_size=100_000,
        every=1.0, servers_every=4.0, cut_after=8.0, kinds=None, real_clients=False,
    ):  # fmt: skip
        self.broker, self.directory = broker, directory
        self.seed, self.seconds, self.rate = seed, seconds, rate
        self.history_size = history_size
        self.every, self.servers_every, self.cut_after = every, servers_every, cut_after
        self.kinds = kinds or broker.kinds
        self.real_clients = real_clients
        self.ports = []
        self.servers = {}
        self.report = Report(f"torture {type(broker).__name__} seed {seed}")
        self.env = {}

    def run(self):
        """Return the report."""
        with self.broker.server:
            bus = {
                "PUBLIC_TOPICS": ["load.**"], "HEARTBEAT": 1, "RETRY": 200,
                "HISTORY_SIZE": self.history_size, **self.broker.bus,
            }  # fmt: skip
            self.env = {
                "DJANGO_SETTINGS_MODULE": "tests.torture.settings",
                "PYTHONPATH": str(ROOT),
                "TORTURE_BUS": json.dumps(bus),
                "COVERAGE_PROCESS_CONFIG": "",  # not measured: they have enough to do
                **self.broker.env,
            }
            self.broker.prepare(self._python)
            asyncio.run(self._play())
        return self.report

    async def _play(self):
        with contextlib.ExitStack() as stack:
            while len(self.ports) < SERVERS:
                self.ports = list({*self.ports, free_port()})
            for port in self.ports:
                self._serve(port)
            stack.callback(self._stop_servers)
            for port in self.ports:
                await asyncio.to_thread(self._wait_for, port)
            async with Streams(STREAMS, self.seed, self.ports, self.cut_after) as streams:
                clients = None
                if self.real_clients:
                    clients = await asyncio.to_thread(
                        stack.enter_context,
                        Clients(self.seed, self.ports, self.cut_after, self.directory),
                    )
                publishers = [stack.enter_context(self._publish(n)) for n in range(PUBLISHERS)]
                await asyncio.to_thread(self._break_things, publishers)
                log = await asyncio.to_thread(self._finish, publishers)
                groups = [streams, clients] if clients else [streams]
                behind = await self._catch_up(groups, log["tail"])
            for stream in behind:
                last = stream.entries[-5:]
                self.report.count("behind", f"stream {stream.name}", stream.names, *last)
            self.report.connections = streams.counts
            self.report.connections.pop("resets", None)
            self.report.connections.pop("delivered", None)
            self.report.hung = self.report.connections.pop("hung", 0)
            journals = [self._journal(n) for n in range(PUBLISHERS)]
            everybody = [one for group in groups for one in group.all]
            if clients:
                self.report.connections["clients"] = len(clients.all)
                self.report.connections["clients cut"] = clients.cuts
                self.report.connections |= {f"absent: {reason}": 1 for reason in clients.absent}
            self._write_down(everybody)
            judge(
                self.report, journals, everybody, log,
                history_size=self.history_size, grace=0.5,
            )  # fmt: skip

    # Processes

    def _python(self, *args):
        subprocess.run(
            [sys.executable, *args], env={**os.environ, **self.env}, cwd=ROOT, check=True,
            timeout=90,
        )  # fmt: skip

    def _serve(self, port):
        self.servers[port] = Process(
            [
                sys.executable, "-m", "uvicorn", "testproject.asgi:application", f"--port={port}",
                "--log-level=warning", "--timeout-graceful-shutdown=5",
            ],
            log=self.directory / f"server-{port}.log", env=self.env,
        )  # fmt: skip

    def _wait_for(self, port):
        self.servers[port].wait_for(lambda: accepts(port), f"a server on port {port}")

    def _stop_servers(self):
        for server in self.servers.values():
            server.process.send_signal(signal.SIGTERM)
        for server in self.servers.values():
            server.stop()

    def _publish(self, number):
        command = ["-m", "tests.torture.publisher", "publish", self.directory / f"{number}.journal"]
        return Process(
            [sys.executable, *command, str(number), str(self.seed), str(self.rate)],
            log=self.directory / f"publisher-{number}.log", env=self.env,
        )  # fmt: skip

    def _journal(self, number):
        text = (self.directory / f"{number}.journal").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def _write_down(self, streams):
        with (self.directory / "streams.jsonl").open("w") as file:
            for stream in streams:
                line = [stream.name, stream.names, stream.entries, stream.times]
                file.write(json.dumps(line) + "\n")

    # Faults

    def kill_server(self, choose):
        """Kill one of the servers, and put another in its place."""
        port = choose.choice(self.ports)
        self.servers[port].kill()
        self._serve(port)
        self._wait_for(port)

    def end_server(self, choose):
        """Stop one of the servers as a deployment does, and put another in its place."""
        port = choose.choice(self.ports)
        self.servers[port].stop()
        self._serve(port)
        self._wait_for(port)

    def _break_things(self, publishers):
        for number, publisher in enumerate(publishers):
            path = self.directory / f"{number}.journal"
            publisher.wait_for(lambda p=path: p.exists() and p.stat().st_size, "its first event")
        faults = self.report.faults
        lanes = [
            Lane(self.kinds, f"{self.seed} broker", self.every, faults),
            Lane(
                [self.kill_server, self.end_server], f"{self.seed} servers", self.servers_every,
                faults,
            ),
        ]  # fmt: skip
        each = {kind.__name__ for lane in lanes for kind in lane.all}
        end = time.monotonic() + self.seconds

        def over():
            # On a busy machine it takes longer until each has had its turn. A lane that ends by
            # itself has failed, and is reported below.
            done = time.monotonic() > end and each <= set(faults)
            return done or any(lane.failure for lane in lanes)

        with contextlib.ExitStack() as stack:
            for lane in lanes:
                stack.enter_context(lane)
            wait_until(over, "the end of the faults", deadline=self.seconds + 120)
        for lane in lanes:
            if lane.failure is not None:
                raise lane.failure

    def _finish(self, publishers):
        for publisher in publishers:
            publisher.stop()
            if publisher.process.returncode:
                raise AssertionError(f"a publisher has failed:\n{publisher.output()}")
        path = self.directory / "log.json"
        self._python("-m", "tests.torture.publisher", "finish", path)
        return json.loads(path.read_text())

    async def _catch_up(self, groups, tail):
        start = time.monotonic()
        while (
            behind := [one for group in groups for one in group.behind(tail)]
        ) and time.monotonic() < start + RECOVERY:
            await asyncio.sleep(0.05)
        self.report.recovery = time.monotonic() - start
        return behind
