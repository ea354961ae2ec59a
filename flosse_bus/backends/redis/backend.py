"""The log in Redis: reaches every process that has the same server."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import redis
from django.core.checks import CheckMessage, Error
from redis.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

from ...conf import SETTING
from ...cursor import Cursor
from ...events import Draft, Record
from ...exceptions import InvalidBusBackend
from ..base import BusBackend, Snapshot
from .connections import Connections, settle, shared
from .listener import RedisListener
from .records import Keys, of_classes, of_event, of_topic, parse_snapshot, placed, split
from .scripts import FLUSH, PUBLISH, READ, TAIL

if TYPE_CHECKING:
    from ...conf import BusConfig

#: What a URL may say that is not for a connection.
_OF_POOLS = ("connection_class", "max_connections")
#: Connections that one process may have for publishing, one per thread that does so at a time.
MAX_CONNECTIONS = 1000


class RedisBackend(BusBackend):
    """A stream per topic, and a channel per topic that wakes whoever listens. Redis 6.2 or newer.

    ``LOCATION`` is a URL (``redis://``, ``rediss://``, ``unix://``) as redis-py reads it, or some
    of them with commas between, the nodes of a Redis Cluster to ask first. ``OPTIONS``:

    - ``sentinels``: addresses ``(host, port)``. The host in ``LOCATION`` is then the service.
    - ``sentinel_kwargs``: arguments for the connections to Sentinel.
    - ``cache``: the alias of a django-redis cache whose settings to use, instead of ``LOCATION``.
    - ``connection_pool``: a :class:`redis.ConnectionPool` or a function that returns one.
    """

    atomic_batches = True
    crosses_processes = True
    keeps_keys = True
    survives_restart = True

    def __init__(
        self,
        config: BusConfig,
        *,
        cache: str | None = None,
        connection_pool: redis.ConnectionPool | Callable[[], redis.ConnectionPool] | None = None,
        sentinels: Sequence[tuple[str, int]] | None = None,
        sentinel_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config)
        self._where = f"{SETTING}[{config.alias!r}]"
        given = [bool(config.location), cache is not None, connection_pool is not None]
        if sum(given) != 1:
            raise InvalidBusBackend(
                f"{self._where}: RedisBackend needs exactly one of LOCATION, such as "
                "'redis://127.0.0.1:6379/0', OPTIONS['cache'] and OPTIONS['connection_pool']."
            )
        if sentinel_kwargs and not sentinels:
            raise InvalidBusBackend(
                f"{self._where}['OPTIONS']: 'sentinel_kwargs' is for use with 'sentinels'."
            )
        make_pool: Callable[[], redis.ConnectionPool]
        if cache is not None:
            alias = cache

            def make_pool() -> redis.ConnectionPool:
                return _like_the_cache(alias, self._where)

        elif connection_pool is not None:
            pool = connection_pool

            def make_pool() -> redis.ConnectionPool:
                return self._accept(pool() if callable(pool) else pool)

        else:
            locations = self._parse(config.location)
            if sentinels:
                make_pool = self._through_sentinel(locations[0], sentinels, sentinel_kwargs or {})
            else:

                def make_pool() -> redis.ConnectionPool:
                    return redis.ConnectionPool(**_pooled(locations[0]))

        self._cache = cache
        self._keys = Keys(config.key_prefix)
        self._classes = of_classes(config)
        self._names = (self._keys.log, self._keys.heads)
        # A tail that there has been. Of two threads either may have the last word.
        self._seen = Cursor("", 0)
        self._connections = Connections(
            f"bus {config.alias!r}", make_pool, borrowed=connection_pool is not None
        )
        if not sentinels and cache is None and connection_pool is None:
            self._connections.know(
                [(one.get("host", "localhost"), one.get("port", 6379)) for one in locations[1:]]
            )

    # The log

    def publish(self, draft: Draft) -> Record:
        return self.publish_many([draft])[0]

    def publish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        config = self.config
        topics = {draft.topic for draft in drafts}
        told = [
            *(of_topic(topic, config.history_of(topic)) for topic in topics),
            *map(of_event, drafts),
        ]
        epoch, at, *answers = self._connections.call(
            PUBLISH,
            self._names,
            self._keys.streams,
            self._keys.channels,
            self._keys.keys,
            int(config.key_ttl * 1000) or 1,
            self._classes,
            len(topics),
            *chain.from_iterable(told),
        )
        log, time = epoch.decode(), float(at)
        return [placed(*one, log, time) for one in zip(drafts, answers, strict=True)]

    def tail(self) -> Cursor:
        return self.tail_and_run()[0]

    def tail_and_run(self) -> tuple[Cursor, bytes]:
        """Return the tail, and which run of a server has told it."""
        seen = self._seen
        (epoch, position), run = self._connections.call_with_run(
            TAIL, self._names, seen.epoch, seen.position
        )
        self._seen = tail = Cursor(epoch.decode(), int(position))
        return tail, run

    def saw(self, cursor: Cursor) -> None:
        """Remember a place that there has been in the log."""
        seen = self._seen
        if cursor.epoch != seen.epoch or cursor.position > seen.position:
            self._seen = cursor

    def read(self, names: Iterable[str]) -> Snapshot:
        topics, patterns = split(list(names))
        reply = self._connections.call(
            READ, self._names, self._keys.streams, len(topics), *topics, *patterns
        )
        return parse_snapshot(reply, self.config)

    def listen(self) -> RedisListener:
        return RedisListener(self, self._connections, self._keys)

    def flush(self) -> None:
        self._connections.call(FLUSH, self._names, self._keys.streams)

    def close(self) -> None:
        self._connections.close()

    def places(self) -> frozenset[Hashable]:
        return frozenset((self.config.key_prefix, *each) for each in self._connections.places())

    def check(self) -> list[CheckMessage]:
        if self._cache is None:
            return []
        try:
            _like_the_cache(self._cache, self._where)
        except InvalidBusBackend as error:
            return [Error(str(error), id="flosse_bus.E001")]
        return []

    # Settings

    def _parse(self, location: str) -> list[dict[str, Any]]:
        found = []
        for url in location.split(","):
            try:
                given = parse_url(url.strip())
                kind = given.get("connection_class", Connection)
                # It does not connect, but complains of arguments that it does not know.
                rest = {k: v for k, v in given.items() if k not in _OF_POOLS}
                kind(**settle(rest))
            except (TypeError, ValueError, redis.RedisError) as error:
                raise InvalidBusBackend(f"{self._where}['LOCATION']: {error}.") from error
            found.append(given)
        return found

    def _accept(self, pool: redis.ConnectionPool) -> redis.ConnectionPool:
        if not isinstance(pool, redis.ConnectionPool):
            raise InvalidBusBackend(
                f"{self._where}['OPTIONS']['connection_pool']: expected a redis.ConnectionPool or "
                f"a function that returns one, not {pool!r}."
            )
        return pool

    def _through_sentinel(
        self,
        url: dict[str, Any],
        sentinels: Sequence[tuple[str, int]],
        sentinel_kwargs: dict[str, Any],
    ) -> Callable[[], redis.ConnectionPool]:
        service = url.pop("host", None)
        ssl = url.pop("connection_class", None) is not None
        if not service or "path" in url:
            raise InvalidBusBackend(
                f"{self._where}['LOCATION']: with 'sentinels' its host is the name of the service, "
                "such as 'redis://mymaster/0'."
            )
        url.pop("port", None)

        def make_pool() -> redis.ConnectionPool:
            manager = Sentinel(list(sentinels), sentinel_kwargs=settle(sentinel_kwargs))
            return SentinelConnectionPool(service, manager, ssl=ssl, **_pooled(url))

        return make_pool


def _pooled(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"max_connections": MAX_CONNECTIONS, **settle(kwargs)}


def _like_the_cache(alias: str, where: str) -> redis.ConnectionPool:
    """Return a new pool that connects as a django-redis cache does."""
    try:
        from django_redis import get_redis_connection  # because it is optional
    except ImportError as error:
        raise InvalidBusBackend(
            f"{where}['OPTIONS']['cache'] needs django-redis: pip install django-redis"
        ) from error
    try:
        pool = get_redis_connection(alias).connection_pool
    except Exception as error:
        raise InvalidBusBackend(
            f"{where}['OPTIONS']['cache']: {alias!r} is not the alias of a django-redis cache: "
            f"{error}"
        ) from error
    given = settle(shared(pool.connection_kwargs))
    kind = pool.connection_class
    if isinstance(pool, SentinelConnectionPool):
        return SentinelConnectionPool(
            pool.service_name,
            pool.sentinel_manager,
            connection_class=kind,
            max_connections=MAX_CONNECTIONS,
            **given,
        )
    if not issubclass(kind, (Connection, UnixDomainSocketConnection)):
        raise InvalidBusBackend(
            f"{where}['OPTIONS']['cache']: {kind.__name__} connections cannot be listened on. "
            "Give LOCATION instead."
        )
    return redis.ConnectionPool(connection_class=kind, max_connections=MAX_CONNECTIONS, **given)
