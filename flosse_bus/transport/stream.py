"""One stream as its view has described it, before and while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import django

from ..access import Access, Refusal
from ..bus import Bus
from ..details import is_id
from ..limits import Place
from ..refusals import encode_refusal
from ..subscription import Item, Subscription
from ..wire import jittered

logger = logging.getLogger("flosse_bus")

#: Seconds after which a stream ends by itself under Django 4.2, whose ASGI handler does not tell
#: a response that its client has gone. The client comes back and resumes.
LIFETIME = 600.0 if django.VERSION < (5, 0) else None
#: Why a stream ends that was asked about again.
WITHDRAWN = "access withdrawn"
#: Of a stream that was to begin while the server stops.
STOPPING = Refusal(status=503, detail="The server is stopping. Try again.")


class Reader(Protocol):
    """What takes from a stream's subscription: a reader, or an outlet."""

    subscription: Subscription

    def end(self, reason: str) -> None: ...
    def leave(self, reason: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class Stream:
    """What to send, where from, and until when. ``after``: see :meth:`Bus.subscribe`."""

    bus: Bus
    names: tuple[str, ...]
    after: str | None
    envelope: bool
    place: Place
    access: Access
    #: Can the client make nothing of an HTTP error?
    only_streams: bool = False
    #: Under WSGI only.
    environ: Mapping[str, Any]
    #: Under ASGI only.
    lifetime: float | None = LIFETIME
    _started: float = field(default_factory=time.monotonic)
    _reader: Reader | None = None

    @property
    def heartbeat(self) -> float:
        return self.bus.config.heartbeat

    def encode(self, items: Sequence[Item]) -> bytes:
        envelope = self.envelope
        return b"".join([item.frame(envelope=envelope) for item in items])

    @property
    def over(self) -> bool:
        """Has the stream lived long enough? Its client comes back and resumes."""
        return self.lifetime is not None and time.monotonic() - self._started >= self.lifetime

    def error(self, refusal: Refusal) -> bytes:
        return encode_refusal(refusal)

    def refusal(self, refusal: Refusal) -> bytes:
        """Return the only block of a stream that cannot begin now: its client comes back."""
        id = self.after if self.after is not None and is_id(self.after) else None
        return encode_refusal(refusal, id=id, retry=jittered(self.bus.config.retry))

    def farewell(self, subscription: Subscription) -> bytes:
        """Return what must still be said when a stream ends: its opening, if it had none."""
        opening = subscription.take_opening()
        if opening or subscription.interests:
            return self.encode(opening)
        self.refused(STOPPING.detail)
        return self.refusal(STOPPING)

    def begin(self, reader: Reader) -> None:
        """The reader is open: from here on the stream can be ended from outside."""
        self._reader = reader
        self.place.ends_with(reader.end)
        logger.info("stream opened on %s", ", ".join(self.names))

    def refused(self, why: object) -> None:
        """The stream could not begin: the log cannot be read now, or the server stops."""
        self.bus.hubs.notices.refused(self.names, why)

    def leave(self, reason: str) -> None:
        """The stream ends for this reason, unless it has been ended before."""
        if self._reader is not None:
            self._reader.leave(reason)

    def close(self) -> None:
        """Leave the bus and give the place up. Any thread; again is harmless."""
        reader, self._reader = self._reader, None
        self.place.release()
        if reader is None:
            return
        reader.leave("client gone")
        subscription = reader.subscription
        logger.info(
            "stream closed after %.1f s and %d events (%s) on %s",
            time.monotonic() - self._started,
            subscription.delivered,
            subscription.closed,
            ", ".join(self.names),
        )
