"""Does the backend answer? For views, which must know before a stream begins, and for monitors."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from .backends.base import BusBackend
from .cursor import Cursor
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
        self._asking = threading.Lock()
        self._question: Future[Cursor] | None = None

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

    def ask(self) -> Future[Cursor]:
        """Ask for the end of the log, and wait for nothing. Who asks meanwhile shares the answer.

        A thread of its own: those that are shared may all be waiting for another broker.
        """
        with self._asking:
            question = self._question
            if question is None:
                question = Future()
                name = f"flosse_bus {self._backend.config.alias} health"
                threading.Thread(
                    target=self._answer, args=(question,), name=name, daemon=True
                ).start()
                self._question = question
            return question

    def _answer(self, question: Future[Cursor]) -> None:
        tail, error = None, None
        try:
            tail = self._backend.tail()
        except Exception as caught:  # noqa: BLE001  # because whoever asked is told
            error = caught
        with self._asking:
            self._question = None
        if tail is not None:
            question.set_result(tail)
        else:
            question.set_exception(error)
