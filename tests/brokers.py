"""Redis, PostgreSQL and PgBouncer for the suite: as few settings as they need, on loopback.

Each is a context manager that starts on entering, takes a directory of its own for data and log,
and can be stopped, killed, paused and started again, on the same port and data.
"""

from tests.brokers_cluster import RedisCluster, RedisSentinel
from tests.brokers_postgres import PgBouncer, PostgresServer, pgbouncer_binary, postgres_bins
from tests.brokers_redis import (
    Certificates,
    RedisServer,
    connect,
    has_tls,
    redis_binaries,
)

__all__ = [
    "Certificates",
    "PgBouncer",
    "PostgresServer",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "connect",
    "has_tls",
    "pgbouncer_binary",
    "postgres_bins",
    "redis_binaries",
]
