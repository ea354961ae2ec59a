"""Every error that the public functions raise on purpose."""

from __future__ import annotations


class FlosseBusError(Exception):
    """Base of all errors of this package."""


class InvalidBusBackend(FlosseBusError):
    """``FLOSSE_BUS`` names a bus, backend, option or value that cannot work."""


class InvalidTopic(FlosseBusError, ValueError):
    """A topic, pattern or topic template that breaks the rules of :mod:`flosse_bus.topics`."""


class InvalidCursor(FlosseBusError, ValueError):
    """A resume position that is not one of this package's ids."""


class InvalidEvent(FlosseBusError, TypeError, ValueError):
    """An event name or data that a stream cannot carry."""


class EventTooLarge(FlosseBusError, ValueError):
    """Encoded data is larger than ``MAX_EVENT_SIZE`` bytes."""


class HistoryGone(FlosseBusError, LookupError):
    """Events after the given cursor are no longer kept: refetch, then go on from a new cursor."""


class BackendUnavailable(FlosseBusError):
    """The broker behind a bus cannot be reached."""


class SSEYieldError(FlosseBusError, ValueError):
    """A generator view has yielded what cannot be sent."""


class SSEPermissionDenied(FlosseBusError):
    """Raise it in ``has_permission`` to refuse a stream; returning ``False`` does the same."""


class SSEClientDisconnected(FlosseBusError):
    """The client of a generator stream has gone.

    Nothing here raises it: a generator sees ``GeneratorExit`` or ``asyncio.CancelledError``. It is
    for generators that want to end themselves: the stream then ends without an error event.
    """


class TooManyStreams(FlosseBusError):
    """``MAX_STREAM_THREADS`` generator streams hold a thread already."""


class TooManyOfOne(TooManyStreams):
    """One client has as many of them as ``MAX_STREAM_THREADS_PER_CLIENT`` allows."""
