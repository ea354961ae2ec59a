"""The example project with signal handlers of its own: from its import, its first request and each
that names ``listen``. Each says so and passes the signal on."""

from __future__ import annotations

import os
import signal

from testproject.asgi import application as project


def listen(where):
    for signum in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(signum)
        if previous is signal.default_int_handler:
            continue  # or the server would leave Ctrl-C to Python

        def handle(signum, frame, previous=previous):
            os.write(1, f"{where} has heard {signal.Signals(signum).name}\n".encode())
            if callable(previous):
                previous(signum, frame)

        signal.signal(signum, handle)


listen("the import")
begun = []


async def application(scope, receive, send):
    if scope["type"] == "http":
        if not begun:
            begun.append(True)
            listen("the first request")
        if b"listen" in scope["query_string"]:
            listen("a later request")
    await project(scope, receive, send)
