"""The servers that are measured: how each is started, commanded and looked at."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.processes import Process, accepts, free_port, watchdog

from .tools import (
    BOLT_PYTHON,
    CACHE,
    CORES,
    PROGRESS,
    PYTHON,
    ROOT,
    Missing,
    bolt_python,
    build,
    cpu,
    memory,
    need,
    pinned,
    tree,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class Server(ABC):
    """One server, pinned to the first core."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: Streams and events a second of the row: fewer where a peer cannot do the usual load.
    streams: ClassVar[int] = 1000
    rate: ClassVar[float] = 20
    #: May it hold streams of logged-in users? Then sessions in PostgreSQL can be measured.
    login: ClassVar[bool] = False
    #: How many events may be under way when it is saturated: each of these is tried.
    windows: ClassVar[tuple[int, ...]] = (8, 64, 512)
    #: Does it have a row of its own in the table? Otherwise another section asks for it.
    row: ClassVar[bool] = True

    def __init__(self, *, streams: int = 1000, postgres: str | None = None) -> None:
        self.most = streams
        self.postgres = postgres
        self.port = free_port()
        #: Where it is told to publish, which is elsewhere if something stands in front of it.
        self.control = self.port
        self.directory = CACHE / "run"
        self.processes: list[Process] = []

    @abstractmethod
    def command(self) -> list[Any]:
        """Return what starts it."""

    def environment(self) -> dict[str, str]:
        return {"BENCH_PROGRESS": str(PROGRESS)}

    def missing(self) -> None:  # noqa: B027  # because most of them need nothing
        """Raise ``Missing`` if it cannot run here."""

    def __enter__(self) -> Self:
        self.missing()
        self.directory.mkdir(parents=True, exist_ok=True)
        PROGRESS.write_bytes(bytes(64))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        log = self.directory / f"{self.name}.log"
        log.unlink(missing_ok=True)
        with pinned(CORES[0]):
            server = Process(self.command(), log=log, env=self.environment())
        self.processes.append(server)
        server.wait_for(lambda: accepts(self.control), f"{self.name} on port {self.control}")

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self.processes):
            children = tree(process.pid)[1:] if process.running else []
            process.stop(timeout=5)
            for child in children:  # of a server that had to be killed
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    # What it uses

    @property
    def pids(self) -> list[int]:
        return tree(self.processes[-1].pid)

    def cpu(self) -> float:
        return cpu(self.pids)

    def broker_cpu(self) -> float:
        """Return what the peer's own broker has used, which is not in ``cpu()``."""
        return 0.0

    def memory(self) -> dict[str, int]:
        return memory(self.pids)

    def files(self) -> int:
        """Return how many files, and so connections, its processes have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids)

    # Publishing

    def load(self, **what: float) -> None:
        """Start to publish: see peers/load.py."""
        self._get("/bench/load?" + "&".join(f"{name}={value}" for name, value in what.items()))

    def stats(self, first: int = 0) -> dict[str, Any]:
        return self._get(f"/bench/stats?first={first}")

    def finished(self, first: int = 0, timeout: float = 60) -> dict[str, Any]:
        """Wait until the load has ended."""
        end = time.monotonic() + timeout
        while True:
            stats = self.stats(first)
            if not stats["running"] and not stats.get("waiting"):
                return stats
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} still publishes: {stats}")
            time.sleep(0.05)

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())


class Floor(Server):
    name, title = "floor", "bare `write(2)` loop in C (the floor)"

    def command(self) -> list[Any]:
        return [build("floor"), str(self.port)]


class Nchan(Server):
    name, title = "nchan", "nginx + nchan"

    def missing(self) -> None:
        if not self._nginx() or not self._module():
            raise Missing("nginx with nchan (Debian: apt install nginx-light libnginx-mod-nchan)")

    def _nginx(self) -> str | None:
        return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

    def _module(self) -> Path | None:
        for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"):
            if (module := Path(folder, "ngx_nchan_module.so")).exists():
                return module
        return None

    def command(self) -> list[Any]:
        config = (ROOT / "benchmarks/peers/nginx.conf").read_text()
        path = self.directory / "nginx.conf"
        path.write_text(
            config.format(module=self._module(), directory=self.directory, port=self.port)
        )
        return [self._nginx(), "-p", self.directory, "-c", path]

    def start(self) -> None:
        super().start()
        command = [build("publisher"), str(self.port), "/publish/%d"]
        with pinned(CORES[-1]):
            self.publisher = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                env={**os.environ, **self.environment()}, start_new_session=True,
            )  # fmt: skip
        watchdog().watch(self.publisher.pid)

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "publisher"):
            self.publisher.kill()
            self.publisher.wait()
            watchdog().forget(self.publisher.pid)
        super().__exit__(*exc)

    def load(self, **what: float) -> None:
        order = ("rate", "size", "seconds", "topics", "window")
        self._tell("load " + " ".join(str(what.get(name, name == "topics")) for name in order))

    def stats(self, first: int = 0) -> dict[str, Any]:
        return self._tell("stats")

    def _tell(self, line: str) -> dict[str, Any]:
        assert self.publisher.stdin is not None
        assert self.publisher.stdout is not None
        self.publisher.stdin.write(line.replace("True", "1").replace("False", "0").encode() + b"\n")
        return json.loads(self.publisher.stdout.readline() or '{"running": false}')


class Python(Server):
    """A peer in Python: a module of ``benchmarks.peers`` with an ``application``."""

    module: ClassVar[str]
    urls: ClassVar[str] = ""
    server: ClassVar[str] = "uvicorn"
    entry: ClassVar[str] = ""
    #: The distribution without which it cannot run.
    package: ClassVar[str] = ""

    @property
    def python(self) -> Path:
        return PYTHON

    def missing(self) -> None:
        if self.package:
            need(self.package, self.python)

    def command(self) -> list[Any]:
        application = f"benchmarks.peers.{self.module}:application"
        at = f"--bind=127.0.0.1:{self.control}"
        # Those of streams whose client has gone are free only at the next event or heartbeat.
        threads = f"--threads={self.most + 420}"
        arguments: dict[str, list[str]] = {
            "uvicorn": ["uvicorn", application, f"--port={self.control}", "--interface=asgi3",
                        "--loop=uvloop", "--http=httptools", "--no-access-log",
                        "--log-level=warning"],
            "daphne": ["daphne", "-b", "127.0.0.1", "-p", str(self.control), "-v", "0",
                       application],
            "bolt": ["django", "runbolt", "--host=127.0.0.1", f"--port={self.control}",
                     "--processes=1", "--workers=1", "--backlog=4096", "--skip-checks"],
            "gthread": ["gunicorn", application, at, "--worker-class=gthread", "--workers=1",
                        threads, f"--worker-connections={self.most + 500}", "--log-level=warning"],
        }  # fmt: skip
        return [self.python, "-m", *arguments[self.server]]

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
            "BENCH_URLS": f"benchmarks.peers.{self.urls or self.module}",
            "BENCH_ENTRY": self.entry,
            **({"BENCH_POSTGRES": self.postgres} if self.postgres else {}),
        }


class TakeOver(Python):
    name, title = "takeover", "**flosse_bus, take-over**, uvicorn"
    module, urls, entry, login = "ours", "ours_urls", "takeover", True

    def missing(self) -> None:
        if not (ROOT / "flosse_bus" / "asgi.py").exists():
            raise Missing("flosse_bus.asgi is not in this version")


class TakeOverUsing(TakeOver):
    """``apublish`` as it is called by default, which asks about a transaction."""

    name, title = "takeover-using", '**flosse_bus, take-over**, uvicorn, `using="default"`'
    row = False

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "BENCH_USING": "default", "BENCH_SQLITE": "1"}


class TakeOverBolt(TakeOver):
    """What django-bolt is compared with where it needs another Python than the rest."""

    name, title = "takeover-bolt", "**flosse_bus, take-over**, uvicorn, on django-bolt's Python"

    @property
    def python(self) -> Path:
        return bolt_python()

    def missing(self) -> None:
        if self.python != BOLT_PYTHON:
            raise Missing("all rows are on the same Python here")


class Stock(Python):
    name, title = "stock", "flosse_bus, stock ASGI, uvicorn"
    module, urls, entry, login = "ours", "ours_urls", "stock", True


class Gthread(Python):
    name, title = "gthread", "flosse_bus, WSGI, gunicorn gthread"
    module, urls, entry, server, login = "ours", "ours_urls", "wsgi", "gthread", True


class Bare(Python):
    name, title = "bare", "stock Django, a bare asyncio.Queue, uvicorn"
    module, login = "bare", True


class EventStream(Python):
    name, title = "eventstream", "django-eventstream, uvicorn"
    module, urls, login = "eventstream", "eventstream_urls", True
    package = "django-eventstream"
    windows = (4, 8)  # it drops what is over 10 pending events of a stream


class EventStreamDaphne(EventStream):
    name, title, server = "eventstream-daphne", "django-eventstream, daphne", "daphne"
    login = False


class Pushpin(EventStream):
    """Pushpin holds the streams, and Django tells it by GRIP what to send; both count."""

    name, title = "pushpin", "Pushpin with django-eventstream, uvicorn"
    login = False
    windows = (64, 256, 512)  # what one way through HTTP takes is under way, too

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.control, self.grip = free_port(), free_port()

    def missing(self) -> None:
        super().missing()
        need("django-grip")
        for program in ("pushpin", "condure", "zurl"):
            if not shutil.which(program):
                raise Missing(f"{program} (Debian: apt install pushpin)")

    def start(self) -> None:
        super().start()
        # The paths of its Unix sockets must be short.
        self.folder = tempfile.TemporaryDirectory(prefix="bench-pushpin-")
        directory = Path(self.folder.name)
        config = (ROOT / "benchmarks/peers/pushpin.conf").read_text()
        config = config.format(directory=directory, port=self.port, grip=self.grip)
        (directory / "pushpin.conf").write_text(config)
        (directory / "routes").write_text(f"* 127.0.0.1:{self.control},trusted\n")
        command = ["pushpin", f"--config={directory / 'pushpin.conf'}", "--merge-output"]
        with pinned(CORES[0]):
            proxy = Process(command, log=self.directory / "pushpin-proxy.log")
        self.processes.append(proxy)
        for port in (self.port, self.grip):
            proxy.wait_for(lambda port=port: accepts(port), f"Pushpin on port {port}")

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "BENCH_GRIP": f"http://127.0.0.1:{self.grip}"}

    @property
    def pids(self) -> list[int]:
        return [pid for process in self.processes for pid in tree(process.pid)]


class FastAPI(Python):
    name, title = "fastapi", "FastAPI's EventSourceResponse, an asyncio.Queue, uvicorn"
    module, package = "fastapi_queue", "fastapi"


class Bolt(Python):
    name, title = "bolt", "django-bolt's EventSourceResponse, an asyncio.Queue, runbolt"
    module, server, package = "bolt", "bolt", "django-bolt"

    @property
    def python(self) -> Path:
        return bolt_python()


class Channels(Python):
    """500 x 10/s, as it cannot do the usual load."""

    name, title = "channels", "Channels consumer, channels_redis, daphne"
    module, server, streams, rate = "recipe", "daphne", 500, 10
    package = "channels-redis"

    def missing(self) -> None:
        super().missing()
        if not shutil.which("redis-server"):
            raise Missing("redis-server (Debian: apt install redis-server)")

    def start(self) -> None:
        self.redis_port = free_port()
        command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1",
                   "--save", "", "--appendonly", "no", "--dir", str(self.directory)]  # fmt: skip
        with pinned(CORES[-1]):
            redis = Process(command, log=self.directory / "redis.log")
        self.processes.append(redis)
        redis.wait_for(lambda: accepts(self.redis_port), "Redis")
        super().start()

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "BENCH_REDIS": f"redis://127.0.0.1:{self.redis_port}/0",
        }

    def broker_cpu(self) -> float:
        return cpu(tree(self.processes[0].pid))


PEERS: dict[str, type[Server]] = {
    peer.name: peer
    for peer in (
        Floor, Nchan, TakeOver, TakeOverUsing, TakeOverBolt, Stock, Gthread, Bare, FastAPI, Bolt,
        EventStream, EventStreamDaphne, Pushpin, Channels,
    )
}  # fmt: skip
