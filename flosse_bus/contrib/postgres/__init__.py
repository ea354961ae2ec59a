"""The tables and functions behind :class:`flosse_bus.backends.postgres.PostgresBackend`."""
