"""Live updates for Django over Server-Sent Events."""

from __future__ import annotations

from .bus import bus, buses
from .changes import publish_bulk, publish_changes, suppress_changes
from .decorators import sse_stream
from .events import Event
from .exceptions import SSEClientDisconnected, SSEPermissionDenied, SSEYieldError
from .generic import SSEView
from .sse import SSEEvent, to_sse
from .topics import topic

__version__ = "0.1.0"

__all__ = [
    "Event",
    "SSEClientDisconnected",
    "SSEEvent",
    "SSEPermissionDenied",
    "SSEView",
    "SSEYieldError",
    "bus",
    "buses",
    "publish_bulk",
    "publish_changes",
    "sse_stream",
    "suppress_changes",
    "to_sse",
    "topic",
]
