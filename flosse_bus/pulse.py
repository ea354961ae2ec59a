"""Does the backend answer? For views, which must know before a stream's status is sent."""

from __future__ import annotations

import threading
import time

from .backends.base import BusBackend
from .exceptions import BackendUnavailable

#: Seconds for which a good answer is good. A bad one is for those only who were waiting for it: a
#: browser that is refused does not come back.
FRESH = 1.0


class Pulse:
    """Asks at most once a second while all is well, and once for all who wait. Any thread."""

    def __init__(self, backend: BusBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._good_until = 0.0
        self._failure: str | None = None

    def check(self) -> None:
        """Return if the backend answers.

        Raises:
            BackendUnavailable: it does not.
        """
        now = time.monotonic()
        with self._lock:
            if now >= self._good_until:
                try:
                    self._backend.tail()
                    self._failure = None
                except BackendUnavailable as error:
                    self._failure = str(error)
                self._good_until = time.monotonic() + (0.0 if self._failure else FRESH)
            if self._failure is not None:
                raise BackendUnavailable(self._failure)
