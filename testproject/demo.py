"""``make demo``, or ``python -m testproject.demo``: the order board, with traffic.

With the memory backend it is one process. With Redis or PostgreSQL (``make demo BUS=redis``) it is
a server of that kind, two servers of the board, and a process that makes the traffic.
"""

import argparse
import fcntl
import functools
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from testproject import brokers
from testproject.children import ROOT, STOPS, Children, Ended, shown

BUSES = ["memory", "redis", "postgres"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", default="memory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="with a broker also the next")
    parser.add_argument("--traffic", type=float, default=2.0, help="changes a second")
    parser.add_argument("--data", type=Path, default=ROOT / ".demo", help="where data is kept")
    options = parser.parse_args()
    if options.bus not in BUSES:
        sys.exit(f"error: BUS={options.bus}: expected one of {', '.join(BUSES)}.")
    ports = [options.port] if options.bus == "memory" else [options.port, options.port + 1]
    for port in ports:
        check_address(options.host, port, options.bus)

    options.data.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TESTPROJECT_DB", str(options.data / "db.sqlite3"))
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    if options.bus == "memory":
        serve_alone(options)
    else:
        serve_together(options, ports)


def serve_alone(options):
    """Serve in this process, which also makes the traffic."""
    os.environ["TESTPROJECT_TRAFFIC"] = str(options.traffic)
    prepare()
    announce(options, [options.port], "Traffic changes")
    import uvicorn

    uvicorn.run(
        "testproject.asgi:application", host=options.host, port=options.port,
        access_log=False, lifespan="off",
    )  # fmt: skip


def serve_together(options, ports):
    """Start a broker, two servers and the traffic, and end them all when this is told to end."""
    for signum in STOPS:
        signal.signal(signum, interrupt)
    private = Path(tempfile.mkdtemp(prefix="flosse-demo-"))
    try:
        with lock(options.data), Children(options.data) as children:
            os.environ |= brokers.start(options.bus, children, options.data, private)
            prepare()
            for number, port in enumerate(ports, 1):
                command = [
                    sys.executable, "-m", "uvicorn", "testproject.asgi:application",
                    f"--host={options.host}", f"--port={port}", "--no-access-log",
                    "--lifespan=off",
                ]  # fmt: skip
                ready = functools.partial(answers, options.host, port)
                children.start(f"server {number}", command, ready=ready)
            command = [sys.executable, ROOT / "testproject" / "manage.py", "traffic"]
            children.start("traffic", [*command, f"--rate={options.traffic}"])
            announce(options, ports, "A third process changes")
            children.watch()
    except KeyboardInterrupt:
        pass
    except (brokers.Unavailable, Ended) as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(private, ignore_errors=True)


def interrupt(signum, frame):
    raise KeyboardInterrupt


def lock(data):
    """Keep a second demo from the same data, until the file that this returns is closed."""
    file = (data / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise brokers.Unavailable(f"another demo is running with the data in {data}.") from None
    return file


def prepare():
    """Make the database's tables and the demo's rows."""
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("seed", verbosity=0, stdout=io.StringIO())
    connections.close_all()


def announce(options, ports, changer):
    first, *others = (base_url(options.host, port) for port in ports)
    lines = [f"Order board   {first}/"]
    lines += [f"              {url}/   (another process: the same events)" for url in others]
    lines += [
        f"Admin         {first}/admin/",
        "Log in        demo / demo (staff)",
        f"Raw stream    curl -N '{[first, *others][-1]}/events/?topic=orders'",
    ]
    if others:
        lines.append(f"Data, logs    {shown(options.data)}/")
    lines += [
        "",
        f"{changer} {options.traffic:g} rows a second. Ctrl-C stops the demo.",
    ]
    print("", *(f"  {line}".rstrip() for line in lines), "", sep="\n", flush=True)


def base_url(host, port):
    name = "127.0.0.1" if host in ("0.0.0.0", "") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def answers(host, port):
    try:
        with socket.create_connection((host or "127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def check_address(host, port, bus):
    """Fail in one line if the server could not listen there."""
    try:
        if not 0 < port < 65536:
            raise OverflowError("a port is a number from 1 to 65535")
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        again = "make demo" if bus == "memory" else f"make demo BUS={bus}"
        sys.exit(
            f"error: cannot listen on {host}:{port}: {reason}. "
            f"Pick another: {again} PORT={port + 1 if 0 < port < 65535 else 8000}"
        )


if __name__ == "__main__":
    main()
