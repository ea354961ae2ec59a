"""Real servers for the suite: started on loopback, waited for, and ended by their pid.

They run in sessions of their own: Ctrl-C reaches the suite alone, which then ends them in order.
A watchdog ends those that are left when the suite itself was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import random
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


def free_port(*, also=0):
    """Return a port on which nothing listens, nor on the one ``also`` above it.

    It is below those that outgoing connections get: none of them can take it while a server
    restarts, nor connect to itself. Nor does another call return it, here or in another process,
    as long as this one lives: the UDP port of the same number is held as a sign that it is taken.
    """
    for _ in range(1000):
        port = random.SystemRandom().randrange(20000, 22700 if also else 32000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for each in {port, port + also}:
                sign = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sign.bind(("127.0.0.1", each))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
            _taken.append(stack.pop_all())
            return port
    raise AssertionError("no free port")


_taken = []


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


def children_of(parent):
    """Return the pids of a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(path.parent.name))
    return found


def lives(pid):
    """Return whether a process is there, and not only its exit status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _ignores_ctrl_c():
    """So does what a shell without job control starts in the background, and its children."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def _hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """A process with its log in a file. Leaving the context ends it."""

    def __init__(self, command, *, log, env=None, cwd=ROOT, user=None, group=None, pass_fds=()):
        self.log = Path(log)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True,
                user=user, group=group, extra_groups=None if user is None else [],
                pass_fds=pass_fds, preexec_fn=_hear_ctrl_c if _ignores_ctrl_c() else None,
            )  # fmt: skip
        watchdog().watch(self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        if self.process.poll() is None:
            return True
        watchdog().forget(self.process.pid)
        return False

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
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        watchdog().forget(self.process.pid)
        return time.monotonic() - start

    def kill(self):
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()
        watchdog().forget(self.process.pid)


class Watchdog:
    """A process that ends and removes what this one leaves behind, also when it is killed."""

    # Reads "+pid", "-pid" and paths to remove, until the pipe closes. SIGQUIT comes first: it lets
    # PostgreSQL clean up.
    CODE = """
import os, shutil, signal, sys, time
left, directories = set(), []
for line in sys.stdin:
    if line[0] == "/":
        directories.append(line[:-1])
    else:
        (left.add if line[0] == "+" else left.discard)(int(line[1:]))
for signum in (signal.SIGQUIT, signal.SIGCONT, signal.SIGKILL):
    if signum == signal.SIGKILL and left:
        for _ in range(20):
            time.sleep(0.05)
    for pid in sorted(left):
        try:
            os.kill(pid, signum)
        except OSError:
            left.discard(pid)
for directory in directories:
    shutil.rmtree(directory, ignore_errors=True)
"""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.CODE], stdin=subprocess.PIPE, cwd="/",
            stdout=subprocess.DEVNULL, start_new_session=True, text=True, bufsize=1,
        )  # fmt: skip
        self.watched = set()

    def watch(self, pid):
        self.watched.add(pid)
        self.process.stdin.write(f"+{pid}\n")

    def forget(self, pid):
        if pid in self.watched:
            self.watched.discard(pid)
            self.process.stdin.write(f"-{pid}\n")

    def remove(self, directory):
        self.process.stdin.write(f"{directory}\n")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@functools.cache
def watchdog():
    """Return the watchdog of this process."""
    watchdog = Watchdog()
    atexit.register(watchdog.close)
    return watchdog


def make_database(env):
    """Make the example project's tables and what the demo begins with."""
    for command in (["migrate", "--verbosity=0"], ["seed"]):
        subprocess.run(
            [sys.executable, str(ROOT / "testproject" / "manage.py"), *command],
            env={**os.environ, **env}, check=True, timeout=60, capture_output=True,
        )  # fmt: skip


@functools.cache
def sqlite_database():
    """Return the path of one to copy: making it takes longer than a server takes to start."""
    directory = tempfile.mkdtemp(prefix="flosse-")
    watchdog().remove(directory)
    path = str(Path(directory) / "db.sqlite3")
    make_database({"DJANGO_SETTINGS_MODULE": "testproject.settings", "TESTPROJECT_DB": path})
    return path


ASGI, WSGI = "testproject.asgi:application", "testproject.wsgi:application"
UVICORN = ["-m", "uvicorn", ASGI, "--port={port}"]
GUNICORN = ["-m", "gunicorn", "--bind=127.0.0.1:{port}", "--workers=1"]


class Project(Process):
    """The example project under a real server, with a database of its own.

    ``kind`` is one of ``COMMANDS``, or such a command.
    """

    COMMANDS = {
        "uvicorn": [*UVICORN, "--loop=uvloop", "--http=httptools"],
        "uvicorn-h11": [*UVICORN, "--loop=asyncio", "--http=h11"],
        "uvicorn-worker": [*GUNICORN, ASGI, "--worker-class=uvicorn_worker.UvicornWorker"],
        "asgi-worker": [*GUNICORN, ASGI, "--worker-class=asgi"],
        "daphne": ["-m", "daphne", "--port={port}", ASGI],
        "hypercorn": ["-m", "hypercorn", "--bind=127.0.0.1:{port}", ASGI],
        "granian": ["-m", "granian", "--interface=asgi", "--port={port}", ASGI],
        "gthread": [*GUNICORN, WSGI, "--worker-class=gthread", "--threads=60"],
        "gevent": [*GUNICORN, WSGI, "--worker-class=gevent"],
        "uwsgi": [
            "-c", "import pyuwsgi; pyuwsgi.run()", "--http-socket=127.0.0.1:{port}",
            "--module=" + WSGI, "--master", "--lazy-apps", "--threads=60", "--die-on-term",
            "--add-header=Connection: close",
        ],
        "runserver": ["testproject/manage.py", "runserver", "{port}"],
    }  # fmt: skip

    def __init__(self, kind, directory, *, port=None, bus=None, env=None, pass_fds=()):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "DJANGO_SETTINGS_MODULE": "testproject.settings",
            "PYTHONPATH": str(ROOT),
            "TESTPROJECT_DB": str(directory / "db.sqlite3"),
            "TESTPROJECT_BUS": json.dumps({"RETRY": 200, **(bus or {})}),
            **(env or {}),
        }
        if "TESTPROJECT_POSTGRES" in self.env:
            make_database(self.env)
        elif not (directory / "db.sqlite3").exists():
            shutil.copy(sqlite_database(), directory / "db.sqlite3")
        parts = self.COMMANDS[kind] if isinstance(kind, str) else kind
        command = [sys.executable, *(part.format(port=self.port) for part in parts)]
        super().__init__(command, log=directory / "server.log", env=self.env, pass_fds=pass_fds)
        try:
            self.wait_for(lambda: accepts(self.port), f"{kind} on port {self.port}")
        except BaseException:
            self.stop()
            raise
