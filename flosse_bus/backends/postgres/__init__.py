"""``FLOSSE_BUS["default"]["BACKEND"] = "flosse_bus.backends.postgres.PostgresBackend"``."""

from ...exceptions import InvalidBusBackend

try:
    from psycopg import pq as _driver  # fails too where there is psycopg but no libpq
except ImportError as error:
    raise InvalidBusBackend(
        f"PostgresBackend needs psycopg 3 ({error}): pip install 'django-flosse-bus[postgres]'"
    ) from error
else:
    from .backend import PostgresBackend

del _driver

__all__ = ["PostgresBackend"]
