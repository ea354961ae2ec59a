"""Listening: one connection, woken by NOTIFY, that reads what is new by position.

Notifications only say that it is worth looking. What is new is read up to the tail of the log, and
no position below that tail can appear later, so that nothing is missed if one is lost or late.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import psycopg

from ...cursor import Cursor
from ...events import Record
from ...exceptions import BackendUnavailable
from ...threads import in_thread
from ...topics import compile_pattern, covered, is_pattern
from ..base import Heard, Interruption, Listener
from .link import (
    PATIENCE,
    Arguments,
    LinkLost,
    Manner,
    NoAnswer,
    Query,
    Refused,
    converse,
    own,
    set_role,
)
from .params import Params, describe
from .queries import BYTES, END, ROWS, Choice, Queries, heading, passed_over, records, snapshot

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

#: Seconds after which the log is looked at, whatever has been notified.
POLL = 2.0
#: Names up to which the server picks the events. Beyond it they are picked here: to send it so many
#: names with each query would cost more than to be sent events that nobody here wants.
FILTER = 100


class _Closed(Exception):
    """The listener has been closed in the midst of something."""


class PostgresListener(Listener):
    """One connection, which one coroutine at a time asks something.

    ``_place`` is how far the log has been read: everything of the names watched up to there has
    been yielded, or is in the batches that are just being yielded.
    """

    def __init__(self, alias: str, queries: Queries, params: Callable[[], Params]) -> None:
        self._alias = alias
        self._queries = queries
        self._params = params
        self._loop = asyncio.get_running_loop()
        self._connecting = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        # Kept, because libpq closes it by itself and then does not tell which it was.
        self._socket = -1
        self._manner = Manner()
        # How often something has come.
        self._arrived = 0
        self._names: dict[str, None] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._added = False
        self._place: Cursor | None = None
        self._stirred = asyncio.Event()
        self._asked = False
        self._probed = False
        self._error: Exception | None = None
        self._closed = False
        self._ended = False

    # What the hub calls

    async def watch(self, names: Iterable[str]) -> None:
        for name in names:
            self._names[name] = None
            if is_pattern(name):
                self._patterns[name] = compile_pattern(name)
        self._added = True
        async with self._connecting:
            self._check_begun()
            if self._place is None:
                await self._connect()
        if self._error is not None:
            raise self._unavailable(self._error) from self._error
        self._ask()

    async def unwatch(self, names: Iterable[str]) -> None:
        for name in names:
            self._names.pop(name, None)
            self._patterns.pop(name, None)

    async def probe(self) -> None:
        self._probed = True
        self._ask()

    async def __aiter__(self) -> AsyncIterator[Heard]:
        self._check_begun()
        try:
            while await self._due():
                for heard in await self._look():
                    yield heard
        except _Closed:
            return
        except (NoAnswer, Refused, LinkLost) as error:
            raise self._unavailable(error) from error
        finally:
            self._ended = True
            self._disconnect()

    def _check_begun(self) -> None:
        if self._ended:
            raise BackendUnavailable(f"bus {self._alias!r}: this listener has ended.")

    async def aclose(self) -> None:
        self._closed = True
        self._disconnect()
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody waiting
            self._stirred.set()

    def let_go(self) -> None:
        """Disconnect, from any thread: the iteration fails, and the hub tries again."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(
                self._fail, LinkLost("connections are closed for a database to be dropped")
            )

    # Reading

    def _wants(self, topic: str) -> bool:
        return topic in self._names or covered(topic, self._patterns.values())

    def _ask(self) -> None:
        self._asked = True
        self._stirred.set()

    async def _due(self) -> bool:
        """Wait until there is reason to look. False: never again."""
        late = self._loop.call_later(POLL, self._ask)
        try:
            while not (self._asked and self._place is not None):
                self._check()
                self._stirred.clear()
                await self._stirred.wait()
            self._check()
        finally:
            late.cancel()
        return True

    def _check(self) -> None:
        if self._closed:
            raise _Closed
        if self._error is not None:
            raise self._error

    async def _look(self) -> list[Heard]:
        """Read what is new, and move on."""
        place = self._place
        assert place is not None
        choice = Choice(self._names) if len(self._names) <= FILTER else None
        self._asked = self._added = False
        probed, self._probed = self._probed, False
        answer, tail = await self._settled(place.position, choice)
        if self._added and choice is not None:
            # Of the names added meanwhile nothing was asked for: the tail is not theirs.
            self._probed |= probed
            self._ask()
            return []
        if tail.epoch != place.epoch or tail.position < place.position:
            return await self._begin_again(place)
        if passed_over(answer, place.position, self._names, self._queries.config):
            # A process that was stopped for long: what has expired meanwhile is in no answer. Up to
            # the tail all is the hub's to read now.
            self._place = tail
            self._ask()
            return [Interruption()]
        heard = records(answer)
        size = sum(len(record.body) for record in heard)
        if len(heard) >= ROWS or size >= BYTES:
            self._place = Cursor(tail.epoch, heard[-1].position)
            self._probed |= probed
            self._ask()
        else:
            self._place = tail
        return self._batches(heard, place, probed=probed)

    def _batches(self, heard: list[Record], before: Cursor, *, probed: bool) -> list[Heard]:
        wanted = [record for record in heard if self._wants(record.topic)]
        assert self._place is not None
        batches: list[Heard] = [wanted] if wanted else []
        if probed or self._place != before:
            batches.append(self._place)
        return batches

    async def _settled(self, after: int, choice: Choice | None) -> tuple[PGresult, Cursor]:
        """Ask for what is new when all that is committed has its position."""
        queries, settled = self._queries, False
        while True:
            answer = await self._run(
                queries.listen, queries.listen_arguments(after, choice, anyway=settled)
            )
            head = heading(answer)
            if head.tail is not None and (settled or not head.unsettled):
                self._asked = self._asked or head.unsettled
                return answer, head.tail
            while (await self._run(queries.settle, queries.settle_arguments())).get_value(
                0, 0
            ) == b"\1":
                pass
            settled = True

    async def _begin_again(self, place: Cursor) -> list[Heard]:
        """The log is another, or has gone on in another epoch: from where both are the same."""
        queries = self._queries
        answer = await self._run(queries.read, queries.read_arguments(Choice(()), anyway=True))
        tail = heading(answer).tail
        if tail is not None:
            known = snapshot(answer, tail).ancestors.get(place.epoch, 0)
            self._place = Cursor(tail.epoch, min(place.position, known, tail.position))
        self._ask()
        return [Interruption()]

    # The connection

    async def _connect(self) -> None:
        try:
            await asyncio.wait_for(self._connect_now(), PATIENCE)
        except _Closed:
            raise BackendUnavailable(f"bus {self._alias!r}: the listener is closed.") from None
        except asyncio.TimeoutError:
            self._disconnect()
            raise self._unavailable(NoAnswer()) from None
        except (NoAnswer, Refused, LinkLost) as error:
            self._disconnect()
            raise self._unavailable(error) from error
        except BaseException:
            self._disconnect()
            raise

    async def _connect_now(self) -> None:
        self._error = None
        params, role = await in_thread(self._params)
        connection = await psycopg.AsyncConnection.connect(**params, autocommit=True)
        own(connection)
        self._connection = connection
        self._check()
        self._socket = connection.pgconn.socket
        self._loop.add_reader(self._socket, self._readable)
        if role is not None:
            await self._run(set_role(role), ())
        # Listen first: what is not in the tail then is notified.
        await self._run(self._queries.hear, ())
        _, self._place = await self._settled(END, None)

    def _readable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.pgconn.consume_input()
            self._arrived += 1
            self._take_notes(connection.pgconn)
        except LinkLost as error:
            self._fail(error)
        self._stirred.set()

    def _take_notes(self, pgconn: PGconn) -> None:
        while note := pgconn.notifies():
            topic = note.extra.decode("utf-8", "replace")
            self._asked = self._asked or not topic or self._wants(topic)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._disconnect()
        self._stirred.set()

    async def _run(self, query: Query, arguments: Arguments) -> PGresult:
        connection = self._connection
        if connection is None:
            raise self._error or _Closed
        pgconn = connection.pgconn
        deadline = self._loop.time() + PATIENCE
        talk = converse(pgconn, self._manner, query, arguments)
        try:
            while True:
                arrived = self._arrived
                await self._wait(next(talk), deadline)
                if self._arrived != arrived:
                    # A large answer takes its time. What must not be long is that nothing comes.
                    deadline = self._loop.time() + PATIENCE
        except StopIteration as end:
            # Those that came with the answer have been read already, but not been looked at.
            self._take_notes(pgconn)
            answer: PGresult = end.value
            return answer
        except LinkLost:
            self._unhook()
            raise

    async def _wait(self, writing: bool, deadline: float) -> None:
        """Wait for something to happen: what can be read is read by :meth:`_readable`."""
        left = deadline - self._loop.time()
        if left <= 0:
            raise NoAnswer
        self._stirred.clear()
        late = self._loop.call_later(left, self._stirred.set)
        if writing:
            self._loop.add_writer(self._socket, self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            late.cancel()
            if writing and self._socket >= 0:
                self._loop.remove_writer(self._socket)
        self._check()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._place = None
        if connection is None:
            return
        self._unhook()
        connection.pgconn.finish()

    def _unhook(self) -> None:
        """Let the loop forget the socket, before anything else gets its number.

        The loop would take that for what it knows already, and never listen to it.
        """
        socket, self._socket = self._socket, -1
        if socket >= 0:
            with contextlib.suppress(RuntimeError):  # a closed loop
                self._loop.remove_reader(socket)
                self._loop.remove_writer(socket)

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"bus {self._alias!r}: {describe(error)}")
