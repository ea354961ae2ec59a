"""How to reach PostgreSQL: from Django's settings, or from a connection string."""

from __future__ import annotations

from typing import Any

from django.db import connections
from psycopg.conninfo import conninfo_to_dict

from ...exceptions import InvalidBusBackend
from .link import CONNECT, LinkLost, NoAnswer, Refused

#: What nobody has set. Networks drop idle connections in silence, and so do servers that fail.
_DEFAULTS = {
    "connect_timeout": CONNECT,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
_LOOPBACK = ("127.0.0.1", "::1")
#: Of Django's connection parameters those that are not libpq's.
_NOT_LIBPQ = (
    "assume_role", "context", "cursor_factory", "isolation_level", "pool", "prepare_threshold",
    "server_side_binding",
)  # fmt: skip

#: Parameters of psycopg's connect(), and the role to assume then.
Params = tuple[dict[str, Any], "str | None"]

MIGRATE = "Add 'flosse_bus.contrib.postgres' to INSTALLED_APPS and run migrate."
#: That a function, table or schema does not exist.
UNDEFINED = ("42883", "42P01", "3F000")


class Origin:
    """The database ``using`` of Django's, and ``dsn`` for what must not go through a pooler."""

    def __init__(self, alias: str, using: str, dsn: str | None) -> None:
        self._where = f"FLOSSE_BUS[{alias!r}]['OPTIONS']"
        if using not in connections:
            known = ", ".join(map(repr, connections))
            raise InvalidBusBackend(
                f"{self._where}['using']: DATABASES has no {using!r}. It has: {known}."
            )
        self._using = using
        self._dsn = self._parse(dsn)

    def _parse(self, dsn: str | None) -> dict[str, Any] | None:
        if dsn is None:
            return None
        try:
            return {**conninfo_to_dict(dsn)}
        except Exception:  # noqa: BLE001  # because what it says, or was given, may be a password
            raise InvalidBusBackend(
                f"{self._where}['listen_dsn']: expected a connection string or URI of libpq's, "
                "like 'postgresql://user@host:5432/database'."
            ) from None

    def fault(self) -> str | None:
        """Say why this database cannot hold the log."""
        vendor = self._wrapper().vendor
        if vendor == "postgresql":
            return None
        return f"{self._where}['using']: the database {self._using!r} is {vendor}, not PostgreSQL."

    def place(self) -> object:
        """Return what tells one database from another: test runners change it in the settings."""
        database = connections.settings[self._using]
        return tuple(database[key] for key in ("NAME", "HOST", "PORT", "USER"))

    def server(self) -> tuple[str, ...]:
        """Return what of the settings names the database, whoever asks for it and how."""
        database = connections.settings[self._using]
        host, port = str(database["HOST"] or ""), str(database["PORT"] or 5432)
        service = str(database.get("OPTIONS", {}).get("service", ""))
        return "localhost" if host in _LOOPBACK else host, port, str(database["NAME"]), service

    def publisher(self) -> Params:
        """Return how to connect now: passwords that are tokens change.

        Raises:
            InvalidBusBackend: the database is not PostgreSQL.
        """
        return self._params("publisher")

    def listener(self) -> Params:
        """Like :meth:`publisher`, for a connection that can LISTEN."""
        if self._dsn is None:
            return self._params("listener")
        return {**_DEFAULTS, **_named("listener"), "client_encoding": "UTF8", **self._dsn}, None

    def _wrapper(self) -> Any:
        # Not that of this thread: it would stay with threads that have nothing to do with Django.
        return connections.create_connection(self._using)

    def _params(self, name: str) -> Params:
        fault = self.fault()
        if fault is not None:
            raise InvalidBusBackend(fault)
        connection = self._wrapper()
        params: dict[str, Any] = connection.get_connection_params()
        for key in _NOT_LIBPQ:
            params.pop(key, None)
        role = connection.settings_dict["OPTIONS"].get("assume_role")
        return {**_DEFAULTS, **_named(name), **params}, role


def _named(name: str) -> dict[str, Any]:
    return {"fallback_application_name": f"flosse_bus {name}"}


def describe(error: Exception) -> str:
    """Say what is wrong with PostgreSQL, and the way out if there is one."""
    if isinstance(error, Refused):
        way_out = f" {MIGRATE}" if error.sqlstate in UNDEFINED else ""
        return f"PostgreSQL refuses: {error}{way_out}"
    if isinstance(error, NoAnswer):
        return str(error)
    assert isinstance(error, LinkLost)
    return f"PostgreSQL cannot be reached: {' '.join(str(error).split())}"
