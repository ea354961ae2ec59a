"""What every measurement needs: the C programs, the venv of the peers, the client, /proc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.processes import children_of, watchdog

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "benchmarks"
CACHE = ROOT / ".bench"
PROGRESS = CACHE / "progress"
#: The server gets the first, the client and whatever else the last.
CORES = sorted(os.sched_getaffinity(0))
PYTHON = CACHE / "venv" / "bin" / "python"
#: For django-bolt, which needs a newer Python than the quickest one may be: see ``prepare``.
BOLT_PYTHON = CACHE / "venv-bolt" / "bin" / "python"
BOLT_MINOR = 12
#: Bytes of a payload such that a block of this project's is about 170 bytes long.
SIZE = 137
PROGRAMS = (
    ("nginx", ["/usr/sbin/nginx", "-v"], r"nginx/([\d.]+)"),
    ("nchan", ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], r"([\d.]+)[+-]"),
    ("pushpin", ["pushpin", "--version"], r"([\d.]+)"),
    ("condure", ["dpkg-query", "-W", "-f", "${Version}", "condure"], r"([\d.]+)-"),
    ("zurl", ["dpkg-query", "-W", "-f", "${Version}", "zurl"], r"([\d.]+)-"),
    ("Redis", ["redis-server", "--version"], r"v=([\d.]+)"),
    ("PostgreSQL", ["postgres", "--version"], r"([\d.]+)"),
    ("cc", ["cc", "-dumpfullversion"], r"([\d.]+)"),
)


class Missing(Exception):
    """Something that a row needs is not on this machine. Says how to get it."""


def pause(seconds: float) -> None:
    """Let a measurement run."""
    time.sleep(seconds)


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside run on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# What is built and installed


def build(name: str) -> Path:
    """Compile one of the C programs, if it is not there yet."""
    program = CACHE / name
    sources = [SOURCES / f"{name}.c"]
    if name == "client":
        sources.append(SOURCES / "client_read.c")
    newest = max(path.stat().st_mtime for path in [*sources, *SOURCES.glob("*.h")])
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise Missing("no C compiler (Debian: apt install gcc libc6-dev)")
        CACHE.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, *sources], check=True, timeout=60)
    return program


def prepare() -> None:
    """Make the venv of the peers, from benchmarks/requirements.txt, and compile.

    Where its Python is too old for django-bolt a second venv gets the quickest one that is not.
    Without any, the row of django-bolt says so.
    """
    build("client")
    if not PYTHON.exists():
        _make(PYTHON, os.environ.get("BENCH_PYTHON") or _interpreter(10) or sys.executable)
    _install(PYTHON)
    if _minor(PYTHON) < BOLT_MINOR and (
        BOLT_PYTHON.exists() or (newer := _interpreter(BOLT_MINOR))
    ):
        if not BOLT_PYTHON.exists():
            _make(BOLT_PYTHON, newer)
        _install(BOLT_PYTHON)


def bolt_python() -> Path:
    """Return the Python that has django-bolt."""
    if not BOLT_PYTHON.exists() and _minor(PYTHON) < BOLT_MINOR:
        raise Missing(f"Python 3.{BOLT_MINOR} or newer for django-bolt's EventSourceResponse")
    return BOLT_PYTHON if BOLT_PYTHON.exists() else PYTHON


def need(package: str, python: Path = PYTHON) -> None:
    """Raise ``Missing`` if a package has not been installed."""
    name = package.replace("-", "_")
    if not any(python.parent.parent.glob(f"lib/python3*/site-packages/{name}-*-info")):
        raise Missing(f"{package} could not be installed from benchmarks/requirements.txt")


def _minor(python: Path) -> int:
    code = "import sys; print(sys.version_info.minor)"
    return int(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)


def _make(python: Path, source: str) -> None:
    venv = python.parent.parent
    print(f"Making {venv.relative_to(ROOT)} with {source} ...", flush=True)
    subprocess.run([source, "-m", "venv", venv], check=True, timeout=120)


def _install(python: Path) -> None:
    """Install the peers; if not all of them can be, each by itself, and say which cannot."""
    requirements = (SOURCES / "requirements.txt").read_text()
    stamp = python.parent.parent / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirements:
        return
    stamp.unlink(missing_ok=True)
    print(f"Installing the peers in {python.parent.parent.relative_to(ROOT)} ...", flush=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    whole = subprocess.run([*install, "-r", SOURCES / "requirements.txt"], check=False, timeout=900)
    if whole.returncode:
        for line in requirements.splitlines():
            if line.startswith("#"):
                continue
            if subprocess.run([*install, line], check=False, timeout=900).returncode:
                print(f"  not installed: {line}", flush=True)
        return  # without the stamp, so that the next run tries again
    stamp.write_text(requirements)


def _interpreter(minor: int) -> str | None:
    """Return the quickest Python that is here and at least 3.``minor``, if there is one.

    Those of distributions are built with profiles, and half as quick again as those that are not.
    """
    candidates = ["/usr/bin/python3", sys.executable]
    for number in range(minor, 20):
        candidates.append(f"python3.{number}")
        candidates += map(str, Path.home().glob(f".pyenv/versions/3.{number}.*/bin/python"))
    found = {}
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            answer = subprocess.run(
                [candidate, "-c", _SPEED, str(minor)], check=True, capture_output=True, timeout=20
            )
            found[candidate] = float(answer.stdout)
    return min(found, key=found.__getitem__, default=None)


_SPEED = """
import sys, timeit, ensurepip, venv
assert sys.version_info >= (3, int(sys.argv[1]))
print(min(timeit.repeat("for n in range(1000): d[n] = str(n).join('ab')", "d = {}", number=200)))
"""


def versions() -> dict[str, str]:
    """Return the versions of what the peers' venvs have, and of the programs."""
    found = _distributions(PYTHON)
    if BOLT_PYTHON.exists() and "django-bolt" in (other := _distributions(BOLT_PYTHON)):
        on = f"Python {other['Python']}, Django {other['Django']}"
        found["django-bolt"] = f"{other['django-bolt']} ({on})"
    wanted = (SOURCES / "requirements.txt").read_text()
    names = {line.partition("==")[0].partition("[")[0].lower() for line in wanted.splitlines()}
    kept = {name: found[name] for name in found if name.lower() in {*names, "python"}}
    for name, command, pattern in PROGRAMS:
        with contextlib.suppress(OSError):
            answer = subprocess.run(command, check=False, capture_output=True, timeout=30)
            if number := re.search(pattern, (answer.stdout + answer.stderr).decode()):
                kept[name] = number[1]
    return kept


def _distributions(python: Path) -> dict[str, str]:
    code = (
        "import json, platform, importlib.metadata as m;"
        "print(json.dumps({'Python': platform.python_version()}"
        " | {d.name: d.version for d in m.distributions()}))"
    )
    answer = subprocess.run([python, "-c", code], check=True, capture_output=True, timeout=30)
    return json.loads(answer.stdout)


def machine() -> dict[str, Any]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = os.uname()
    return {"cpu": model, "cores": len(CORES), "kernel": f"{kernel.sysname} {kernel.release}"}


# Processes, as the kernel sees them


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for one in found:
        found += children_of(one)
    return found


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds that these processes have used, user and system."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy(core: int) -> float:
    """Return the seconds for which a core has been busy, with whatever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            idle = int(fields[3]) + int(fields[4])
            return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")
    return 0.0


def memory(pids: Iterable[int]) -> dict[str, int]:
    """Return KB of RSS and PSS, and the number of threads."""
    total = {"rss": 0, "pss": 0, "threads": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in ("Rss", "Pss"):
                    total[name.lower()] += int(rest.split()[0])
            total["threads"] += len(os.listdir(f"/proc/{pid}/task"))
    return total


# The client


class Client:
    """One load client with its streams open. Leaving the context closes them."""

    def __init__(
        self,
        port: int,
        connections: int,
        *,
        path: str = "/stream/%d/",
        timeout: float = 120,
        topics: int = 1,
        **options: Any,
    ) -> None:
        command = [build("client"), f"--port={port}", f"--connections={connections}"]
        command += [f"--path={path}", f"--topics={topics}", f"--life={int(timeout) + 600}"]
        for name, value in options.items():
            command.append(f"--{name}" if value is True else f"--{name}={value}")
        with pinned(CORES[-1]):
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
        watchdog().watch(self.process.pid)
        self.connections = connections
        try:
            self.opened = self.answer(timeout)
            if self.opened["failed"]:
                raise RuntimeError(f"not every stream opened: {self.opened}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def answer(self, timeout: float = 30) -> dict[str, Any]:
        """Wait for the next line of the client."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"the client has not answered within {timeout} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the client has ended")
        return json.loads(line)

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")

    def ask(self, command: str, timeout: float = 30) -> dict[str, Any]:
        self.tell(command)
        return self.answer(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.tell("quit")
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        watchdog().forget(self.process.pid)
