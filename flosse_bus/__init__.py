"""Live updates for Django over Server-Sent Events."""

from __future__ import annotations

from .bus import bus, buses
from .changes import publish_bulk, publish_changes, suppress_changes
from .events import Event
from .topics import topic

__version__ = "0.1.0"

__all__ = [
    "Event",
    "bus",
    "buses",
    "publish_bulk",
    "publish_changes",
    "suppress_changes",
    "topic",
]
