"""SQLite in memory, whose threads share its tables: it does not wait for a lock there, but fails."""

from __future__ import annotations

import threading

from flosse_bus.transport.outlet import Outlet
from flosse_bus.transport.warden import Warden

#: Held by whoever uses the database while a stream is open.
DATABASE = threading.Lock()


def ask_alone(monkeypatch):
    """Have questions about streams wait for each other, and for what holds the lock."""
    for kind in (Outlet, Warden):

        def asked(stream, ask=kind.ask):
            with DATABASE:
                return ask(stream)

        monkeypatch.setattr(kind, "ask", asked)
