"""``make demo``: migrate, seed, and serve the order board with traffic in the server's process."""

import argparse
import io
import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--traffic", type=float, default=2.0, help="changes a second")
    options = parser.parse_args()
    check_address(options.host, options.port)

    database = ROOT / ".demo" / "db.sqlite3"
    database.parent.mkdir(exist_ok=True)
    os.environ.setdefault("TESTPROJECT_DB", str(database))
    os.environ["TESTPROJECT_TRAFFIC"] = str(options.traffic)
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("seed", verbosity=0, stdout=io.StringIO())

    shown = "127.0.0.1" if options.host in ("0.0.0.0", "") else options.host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{options.port}"
    print(
        f"""
  Order board   {url}/
  Admin         {url}/admin/
  Log in        demo / demo (staff)
  Raw stream    curl -N '{url}/events/?topic=orders'

  Traffic changes {options.traffic:g} rows a second. Ctrl-C stops the demo.
""",
        flush=True,
    )
    import uvicorn

    uvicorn.run(
        "testproject.asgi:application", host=options.host, port=options.port,
        access_log=False, lifespan="off",
    )  # fmt: skip


def check_address(host, port):
    """Fail in one line if the server could not listen there."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(
            f"error: cannot listen on {host}:{port}: {reason}. "
            f"Pick another: make demo PORT={port % 65535 + 1}"
        )


if __name__ == "__main__":
    main()
