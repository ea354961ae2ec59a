"""The example project with signal handlers of its own, put in place by its first request, before any
stream, and by each that names ``listen``. What is there when it is imported, servers replace.
"""

from __future__ import annotations

import os
import signal

from testproject.asgi import application as project


def listen(where):
    for signum in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(signum)

        def handle(signum, frame, previous=previous):
            os.write(1, f"{where} has heard {signal.Signals(signum).name}\n".encode())
            if callable(previous):
                previous(signum, frame)

        signal.signal(signum, handle)


begun = []


async def application(scope, receive, send):
    if scope["type"] == "http":
        if not begun:
            begun.append(True)
            listen("the first request")
        if b"listen" in scope["query_string"]:
            listen("a later request")
    await project(scope, receive, send)
