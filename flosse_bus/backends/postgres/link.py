"""One connection to PostgreSQL: a query and its answer, and no wait without an end.

What libpq is told and what it answers is one generator for blocking and for asynchronous use
(:func:`converse`). It speaks to :mod:`psycopg.pq` and not to psycopg's cursors, which wait for an
answer for as long as it takes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

#: Seconds that PostgreSQL has to answer a query, connecting included.
PATIENCE = 5.0
#: Seconds to connect, for each host that there is. Less is not possible.
CONNECT = 2

#: Raised by flosse_bus_open: the server makes other transactions by default.
_WRONG_ISOLATION = "ZB001"
_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"

#: What may be asked for in one go: the call of a function, its arguments and which are binary.
Arguments = Sequence["bytes | None"]
#: A connection that is lost, closed or was never there.
LinkLost = psycopg.OperationalError


class Refused(Exception):
    """PostgreSQL has answered with an error."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class NoAnswer(Exception):
    """PostgreSQL has not answered in time. It may have done what it was asked."""

    def __init__(self) -> None:
        super().__init__(f"PostgreSQL has not answered within {PATIENCE:g} s.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The text of a query and which of its parameters are binary; answers are binary."""

    text: bytes
    formats: list[int] | None = None


class Manner:
    """How one connection is spoken to."""

    __slots__ = ("explicit",)

    def __init__(self) -> None:
        #: The server's own transactions are not READ COMMITTED: begin each with words.
        self.explicit = False


def converse(
    pgconn: PGconn, manner: Manner, query: Query, arguments: Arguments
) -> Generator[bool, None, PGresult]:
    """Send a query and return its answer.

    Whoever drives it waits, each time it yields, until the socket can be read (or, if what it
    yields is true, written), and lets ``pgconn`` consume its input if it can be read.
    """
    if not manner.explicit:
        try:
            return (yield from _exchange(pgconn, query, arguments))
        except Refused as error:
            if error.sqlstate != _WRONG_ISOLATION:
                raise
            manner.explicit = True  # nothing has been done yet
    yield from _exchange(pgconn, Query(text=_BEGIN), ())
    answer = yield from _exchange(pgconn, query, arguments)
    yield from _exchange(pgconn, Query(text=b"COMMIT"), ())
    return answer


def _exchange(
    pgconn: PGconn, query: Query, arguments: Arguments
) -> Generator[bool, None, PGresult]:
    # Lists, whatever the types say: psycopg 3.1 takes nothing else.
    pgconn.send_query_params(
        query.text, list(arguments), param_formats=query.formats, result_format=1
    )
    while pgconn.flush():
        yield True
    answer: PGresult | None = None
    while True:
        while pgconn.is_busy():
            yield False
        result = pgconn.get_result()
        if result is None:
            break
        # An error of the commit comes after the rows.
        if answer is None or _failed(result):
            answer = result
    if answer is None:
        raise LinkLost("the connection was closed without an answer")
    if _failed(answer):
        sqlstate = answer.error_field(pq.DiagnosticField.SQLSTATE) or b""
        raise Refused(_message(answer), sqlstate.decode("ascii", "replace"))
    return answer


def _failed(result: PGresult) -> bool:
    return result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


def _message(result: PGresult) -> str:
    fields = (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_HINT)
    parts = [part.decode("utf-8", "replace") for f in fields if (part := result.error_field(f))]
    return " ".join(parts) or "no reason given"


class Link:
    """A blocking connection, for one thread at a time."""

    def __init__(self, params: Mapping[str, Any], role: str | None) -> None:
        self._connection = psycopg.Connection.connect(**params, autocommit=True)
        own(self._connection)
        self._pgconn = self._connection.pgconn
        self._manner = Manner()
        self._selector = _selector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)
        try:
            if role is not None:
                self.run(set_role(role), (), time.monotonic() + PATIENCE)
        except BaseException:
            self.close()
            raise

    @property
    def usable(self) -> bool:
        """Is nothing under way on it, and has the server not said anything unasked?

        The only thing that a server has to say to an idle connection is that it ends.
        """
        return (
            self._pgconn.status == pq.ConnStatus.OK
            and self._pgconn.transaction_status == pq.TransactionStatus.IDLE
            and not self._selector.select(0)
        )

    def run(self, query: Query, arguments: Arguments, deadline: float) -> PGresult:
        """Return the answer to a query. After any exception the link is of no more use.

        Raises:
            Refused: the server does not want to.
            NoAnswer: ``deadline`` (of ``time.monotonic()``) has passed, or nothing more of an
                answer has come for as long as ``PATIENCE``.
            LinkLost: the connection is lost.
        """
        talk = converse(self._pgconn, self._manner, query, arguments)
        try:
            while True:
                if self._wait(next(talk), deadline):
                    # A large answer takes its time. What must not be long is that nothing comes.
                    deadline = max(deadline, time.monotonic() + PATIENCE)
        except StopIteration as end:
            answer: PGresult = end.value
            return answer

    def _wait(self, writing: bool, deadline: float) -> bool:
        """Wait until it can go on. True: something has come."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        key = self._selector.get_key(self._pgconn.socket)
        if key.events != wanted:
            self._selector.modify(self._pgconn.socket, wanted)
        ready = self._selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            raise NoAnswer
        if ready[0][1] & selectors.EVENT_READ:
            self._pgconn.consume_input()
            return True
        return False

    def close(self) -> None:
        self._selector.close()
        self._pgconn.finish()


def _selector() -> selectors.BaseSelector:
    # Neither epoll nor kqueue: those would be a descriptor more each, which a child would share.
    if hasattr(selectors, "PollSelector"):
        return selectors.PollSelector()
    return selectors.SelectSelector()


def set_role(role: str) -> Query:
    """Return what Django's option ``assume_role`` makes of a connection."""
    return Query(text='SET ROLE "{}"'.format(role.replace('"', '""')).encode())


# Connections in a forked child: it shares the sockets, and must neither use nor end them.

_owned: weakref.WeakSet[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]] = weakref.WeakSet()
_inherited: list[object] = []


def own(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Remember a connection, so that a forked child lets go of its socket."""
    _owned.add(connection)


def _disown() -> None:
    # Another file takes the place of the socket: the parent's session ends with the parent, and
    # nothing that the child does to the object, not even collecting it, says goodbye on it.
    nothing = os.open(os.devnull, os.O_RDWR)
    for connection in list(_owned):
        _inherited.append(connection)
        with contextlib.suppress(psycopg.Error, OSError):
            os.dup2(nothing, connection.pgconn.socket, inheritable=False)
    os.close(nothing)
    _owned.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_disown)
