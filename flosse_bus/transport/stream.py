"""One stream as its view has described it, before and while it runs."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import django

from ..access import Access, Refusal
from ..bus import Bus
from ..events import ERROR
from ..exceptions import BackendUnavailable
from ..limits import Place
from ..subscription import Item, Subscription
from ..wire import encode, encode_retry

logger = logging.getLogger("flosse_bus")

#: Seconds after which a stream ends by itself under Django 4.2, whose ASGI handler does not tell
#: a response that its client has gone. The client comes back and resumes.
LIFETIME = 600.0 if django.VERSION < (5, 0) else None
#: Why a stream ends that was asked about again.
WITHDRAWN = "access withdrawn"


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
    #: Under WSGI only.
    environ: Mapping[str, Any]
    #: Under ASGI only.
    lifetime: float | None = LIFETIME
    _started: float = field(default_factory=time.monotonic)
    _reader: Reader | None = None

    @property
    def heartbeat(self) -> float:
        return self.bus.config.heartbeat

    def opening(self) -> bytes:
        """Return the ``retry:`` block. Jitter keeps cut streams from coming back as one."""
        return encode_retry(round(self.bus.config.retry * random.uniform(0.75, 1.25)))

    def encode(self, items: Sequence[Item]) -> bytes:
        envelope = self.envelope
        return b"".join([item.frame(envelope=envelope) for item in items])

    @property
    def over(self) -> bool:
        """Has the stream lived long enough? Its client comes back and resumes."""
        return self.lifetime is not None and time.monotonic() - self._started >= self.lifetime

    def error(self, refusal: Refusal) -> bytes:
        code = {403: "forbidden", 503: "unavailable"}[refusal.status]
        data = {"code": code, "detail": refusal.detail}
        return encode(json.dumps(data).encode(), event=ERROR)

    def begin(self, reader: Reader) -> None:
        """The reader is open: from here on the stream can be ended from outside."""
        self._reader = reader
        self.place.ends_with(reader.end)
        logger.info("stream opened on %s", ", ".join(self.names))

    def refused(self, error: BackendUnavailable) -> None:
        """The log could not be read when the stream was to begin."""
        self.bus.hubs.notices.refused(self.names, error)

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
