"""The log in PostgreSQL, which commits events with the transactions that publish them.

The tables and functions are those of ``flosse_bus.contrib.postgres``: how positions are given is
written there. Here are the connections: none of Django's, but for :meth:`PostgresBackend.enlist`.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created

from ...conf import BusConfig, configured_aliases, load
from ...cursor import Cursor
from ...events import Draft, Record
from ...exceptions import BackendUnavailable, InvalidBusBackend
from ...threads import in_thread
from ..base import BusBackend, Snapshot
from . import outbox
from .keys import Held, distinct, pauses
from .link import Arguments, Link, LinkLost, NoAnswer, Query, Refused
from .listener import PostgresListener
from .params import Origin, describe
from .pool import Pool
from .queries import END, Choice, Queries, appended, appended_many, heading, snapshot

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

T = TypeVar("T")

APP = "flosse_bus.contrib.postgres"


class PostgresBackend(BusBackend):
    """Publish and listen through the database ``using``.

    ``listen_dsn`` is a libpq connection string for the listener, where ``using`` goes through a
    pooler that does not know LISTEN. ``logged`` keeps the history over a crash of the server, for
    slower publishing; ``migrate`` applies it. ``schema`` is where the tables are, if that is not
    the first of the ``search_path``.
    """

    atomic_batches = True
    crosses_processes = True
    keeps_keys = True
    survives_restart = True

    def __init__(
        self,
        config: BusConfig,
        *,
        using: str = "default",
        listen_dsn: str | None = None,
        logged: bool = False,
        schema: str | None = None,
    ) -> None:
        super().__init__(config)
        where = f"FLOSSE_BUS[{config.alias!r}]['OPTIONS']"
        if not isinstance(logged, bool):
            raise InvalidBusBackend(f"{where}['logged']: expected a bool, not {logged!r}.")
        if schema is not None and (not isinstance(schema, str) or not schema or '"' in schema):
            raise InvalidBusBackend(f"{where}['schema']: expected a name, not {schema!r}.")
        self.using = using
        self.logged = logged
        self.schema = schema
        self._origin = Origin(config.alias, using, listen_dsn)
        self._queries = Queries(config, schema=schema, relaxed=not logged)
        self._pool = Pool(lambda: Link(*self._origin.publisher()), self._origin.place)
        self._listeners: weakref.WeakSet[PostgresListener] = weakref.WeakSet()
        connection_created.connect(self._database_goes)

    # Publishing

    def publish(self, draft: Draft) -> Record:
        if draft.key is not None:
            return self.publish_many([draft])[0]
        queries = self._queries
        arguments = queries.append_arguments(draft)
        while True:
            record = appended(self._run(queries.append, arguments), draft)
            if record is not None:
                return record

    def publish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        each, indexes = distinct(drafts)
        arguments, waits = self._queries.append_many_arguments(each), pauses()
        records = self._append_many(each, arguments)
        while isinstance(records, Held):
            time.sleep(self._next(waits, records))
            records = self._append_many(each, arguments)
        return [records[index] for index in indexes]

    async def apublish(self, draft: Draft) -> Record:
        if draft.key is not None:
            return (await self.apublish_many([draft]))[0]
        return await super().apublish(draft)

    async def apublish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        if all(draft.key is None for draft in drafts):
            return await super().apublish_many(drafts)
        each, indexes = distinct(drafts)
        arguments, waits = self._queries.append_many_arguments(each), pauses()
        records = await in_thread(self._append_many, each, arguments)
        while isinstance(records, Held):
            await asyncio.sleep(self._next(waits, records))
            records = await in_thread(self._append_many, each, arguments)
        return [records[index] for index in indexes]

    def _append_many(self, drafts: Sequence[Draft], arguments: Arguments) -> list[Record] | Held:
        while True:
            answer = appended_many(self._run(self._queries.append_many, arguments), drafts)
            if answer is not None:
                return answer

    def _next(self, waits: Iterator[float], held: Held) -> float:
        pause = next(waits, None)
        if pause is None:
            raise self._unavailable(str(held))
        return pause

    def enlist(self, drafts: Sequence[Draft], using: str) -> bool:
        if using != self.using:
            return False
        arguments = self._queries.enlist_arguments(distinct(drafts)[0])
        outbox.write(connections[using], self._queries.enlist, arguments, self._unavailable)
        return True

    # Reading

    def tail(self) -> Cursor:
        queries = self._queries
        return self._settled(
            lambda anyway: self._run(
                queries.listen, queries.listen_arguments(END, None, anyway=anyway)
            ),
            lambda answer, tail: tail,
        )

    def read(self, names: Iterable[str]) -> Snapshot:
        queries, choice = self._queries, Choice(names)
        return self._settled(
            lambda anyway: self._run(queries.read, queries.read_arguments(choice, anyway=anyway)),
            snapshot,
        )

    def _settled(self, ask: Callable[[bool], PGresult], make: Callable[[PGresult, Cursor], T]) -> T:
        """Ask until the answer holds all that was committed when this was called."""
        settled = False
        while True:
            answer = ask(settled)
            head = heading(answer)
            if head.tail is not None and (settled or not head.unsettled):
                return make(answer, head.tail)
            while (
                self._run(self._queries.settle, self._queries.settle_arguments()).get_value(0, 0)
                == b"\1"
            ):
                pass
            settled = True

    def flush(self) -> None:
        self._run(self._queries.flush, self._queries.flush_arguments())

    # Listening

    def listen(self) -> PostgresListener:
        listener = PostgresListener(self.config.alias, self._queries, self._origin.listener)
        self._listeners.add(listener)
        return listener

    # Connecting

    def close(self) -> None:
        self._pool.close()

    def _run(self, query: Query, arguments: Arguments) -> PGresult:
        try:
            return self._pool.run(query, arguments)
        except (NoAnswer, Refused, LinkLost) as error:
            raise self._unavailable(describe(error)) from error

    def _unavailable(self, reason: str) -> BackendUnavailable:
        return BackendUnavailable(f"bus {self.config.alias!r}: {reason}")

    def _database_goes(self, *, connection: Any, **kwargs: Any) -> None:
        """A test runner is about to drop the database: sessions of ours would forbid it."""
        if connection.alias == NO_DB_ALIAS:
            self._pool.close()
            for listener in list(self._listeners):
                listener.let_go()

    # Checks

    def places(self) -> frozenset[Hashable]:
        return frozenset({(self.config.key_prefix, *self._origin.server(), self._schema())})

    def _schema(self) -> str:
        """Return the schema, or what it depends on."""
        options = connections.settings[self.using].get("OPTIONS", {})
        return self.schema or options.get("options") or "public"

    def check(self) -> list[CheckMessage]:
        where = f"FLOSSE_BUS[{self.config.alias!r}]"
        fault = self._origin.fault()
        if fault is not None:
            return [_error(fault, "Name an alias of DATABASES that is.")]
        if not apps.is_installed(APP):
            return [
                _error(
                    f"{where}: PostgresBackend needs the tables of {APP!r}.",
                    f"Add {APP!r} to INSTALLED_APPS and run migrate.",
                )
            ]
        for alias in configured_aliases():
            other = load(alias)
            if (
                other.backend == self.config.backend
                and other.options.get("using", "default") == self.using
                and other.options.get("schema") == self.schema
                and other.options.get("logged", False) is not self.logged
            ):
                return [
                    _error(
                        f"{where}['OPTIONS']['logged'] is {self.logged}, but that of {alias!r}, "
                        "whose events are in the same table, is not.",
                        "Give all buses in one database the same 'logged'.",
                    )
                ]
        return []


def _error(message: str, hint: str) -> CheckMessage:
    return Error(message, hint=hint, id="flosse_bus.E003")
