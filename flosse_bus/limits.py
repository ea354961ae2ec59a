"""How many streams are open in this process, and whose: MAX_STREAMS and friends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from .conf import BusConfig


def client_of(request: HttpRequest) -> Hashable:
    """Return whose request it is: the user's, or the address's. Sync code: it may use the ORM."""
    user = getattr(request, "user", None)
    pk = getattr(user, "pk", None)  # not all are of a model
    if pk is not None and getattr(user, "is_authenticated", False):
        return ("user", pk)
    return ("address", request.META.get("REMOTE_ADDR"))


def known_client(request: HttpRequest) -> Hashable:
    """Like :func:`client_of`, if the user has been looked for already: it asks no database."""
    user = getattr(request, "user", None)
    if isinstance(user, LazyObject) and user._wrapped is empty:
        return ("address", request.META.get("REMOTE_ADDR"))
    return client_of(request)


class Place:
    """One stream's place in the count, and the handle to end it from outside."""

    __slots__ = ("__weakref__", "_client", "_end", "_streams", "_withdrawn", "session_key")

    def __init__(self, streams: OpenStreams, client: Hashable, session_key: str | None) -> None:
        self._streams = streams
        self._client = client
        self.session_key = session_key
        self._end: Callable[[str], None] | None = None
        # Why the stream should end, once it should; its client comes back and is asked anew.
        self._withdrawn: str | None = None

    def ends_with(self, end: Callable[[str], None]) -> None:
        """Register how to end the stream that has begun. ``end`` takes the reason, any thread."""
        self._end = end
        if self._withdrawn is not None:
            end(self._withdrawn)

    def withdraw(self, reason: str) -> None:
        """End the stream, now or as soon as it begins."""
        self._withdrawn = reason
        if self._end is not None:
            self._end(reason)

    def release(self) -> None:
        """Give the place up. Again is harmless."""
        self._streams.release(self, self._client)


class OpenStreams:
    """The places of one bus. Any thread."""

    def __init__(self, config: BusConfig) -> None:
        self._config = config
        # Reentrant: a response that the garbage collector finds gives its place up in the midst of
        # whatever this thread does.
        self._lock = threading.RLock()
        self._places: set[Place] = set()
        self._clients: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def counts_clients(self) -> bool:
        """Is it worth finding out who the client is?"""
        return self._config.max_streams_per_client is not None

    def take(self, client: Hashable, session_key: str | None) -> Place | str:
        """Return a place, or the name of the setting that there is none left under."""
        config = self._config
        with self._lock:
            if config.max_streams is not None and len(self._places) >= config.max_streams:
                return "MAX_STREAMS"
            most = config.max_streams_per_client
            if most is not None and self._clients[client] >= most:
                return "MAX_STREAMS_PER_CLIENT"
            place = Place(self, client, session_key)
            self._places.add(place)
            self._clients[client] += 1
            return place

    def release(self, place: Place, client: Hashable) -> None:
        with self._lock:
            if place not in self._places:
                return
            self._places.remove(place)
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def of_session(self, session_key: str) -> list[Place]:
        with self._lock:
            return [place for place in list(self._places) if place.session_key == session_key]
