"""``OPTIONS {"logged": ...}``: whether the log is still there after a crash of the server."""

from __future__ import annotations

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from flosse_bus.bus import buses
from flosse_bus.exceptions import InvalidBusBackend

#: Whatever belongs to the log, so that all of it is kept or none. Never flosse_bus_run.
TABLES = ("flosse_bus_log", "flosse_bus_topic", "flosse_bus_event", "flosse_bus_key")


def apply(using: str) -> None:
    """Make the tables in a database logged or unlogged, as the buses there want them.

    It rewrites tables that are not so already, and nobody can publish meanwhile.
    """
    if connections[using].vendor != "postgresql":
        return
    for schema, logged in _wanted(using).items():
        with transaction.atomic(using=using), connections[using].cursor() as cursor:
            for table in TABLES:
                _set(cursor, f'"{schema}".{table}' if schema else table, logged)


def _wanted(using: str) -> dict[str | None, bool]:
    backends = [bus.backend for bus in buses.all()]
    try:
        from flosse_bus.backends.postgres import PostgresBackend
    except InvalidBusBackend:  # without its driver no bus can be one
        return {}
    found = [backend for backend in backends if isinstance(backend, PostgresBackend)]
    return {backend.schema: backend.logged for backend in found if backend.using == using}


def _set(cursor: CursorWrapper, table: str, logged: bool) -> None:
    cursor.execute("SELECT relpersistence = 'p' FROM pg_class WHERE oid = to_regclass(%s)", [table])
    row = cursor.fetchone()
    if row is not None and row[0] is not logged:
        cursor.execute(f"ALTER TABLE {table} SET {'LOGGED' if logged else 'UNLOGGED'}")
