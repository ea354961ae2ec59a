"""Writing events in a transaction of the project's, which survives if that cannot be done.

In PostgreSQL a statement that fails takes the whole transaction with it. Whoever caught the error
would see the transaction end well, and its rows would be gone: the commit of a transaction that has
failed is a rollback, without a word. So events are written below a savepoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.db import Error, ProgrammingError
from psycopg import ClientCursor

from ...exceptions import BackendUnavailable
from .params import MIGRATE, UNDEFINED

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

# Not Django's savepoints: it asks which of them its on_commit hooks belong to. One of ours is over
# before anything else is done, so one name does for all.
_BEGIN = "SAVEPOINT flosse_bus"
_END = "RELEASE SAVEPOINT flosse_bus"
_UNDO = "ROLLBACK TO SAVEPOINT flosse_bus"

#: The transaction cannot be serialized. It must be tried again from its beginning, by its owner.
_RETRY = "40001"


def write(
    connection: BaseDatabaseWrapper,
    statement: str,
    arguments: tuple[Any, ...],
    unavailable: Callable[[str], BackendUnavailable],
) -> None:
    """Execute a statement in the open transaction: all of it, or nothing and an error.

    Raises:
        BackendUnavailable: nothing was done, and the transaction goes on as if nothing had been.
        django.db.Error: the transaction itself is lost.
    """
    with _cursor(connection) as cursor:
        try:
            cursor.execute(f"{_BEGIN};{statement};{_END}", arguments)
        except Error as error:
            if _sqlstate(error) == _RETRY:
                raise
            try:
                cursor.execute(f"{_UNDO};{_END}")
            except Error:  # the connection is lost, or the transaction had failed before
                raise error from error.__cause__
            missing = isinstance(error, ProgrammingError) and _sqlstate(error) in UNDEFINED
            reason = " ".join(str(error).split())
            raise unavailable(f"{reason} {MIGRATE}" if missing else reason) from error


def _cursor(connection: BaseDatabaseWrapper) -> CursorWrapper:
    """Return a cursor that puts arguments in itself, so that one round trip does for all."""
    cursor = connection.cursor()
    if getattr(connection.features, "uses_server_side_binding", False):
        cursor.close()
        plain: Any = ClientCursor(connection.connection)
        return connection.make_cursor(plain)
    return cursor


def _sqlstate(error: Exception) -> object:
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
