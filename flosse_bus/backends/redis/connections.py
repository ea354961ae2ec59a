"""Connections to the one server that holds a bus, wherever it is at the moment.

That is the server of the URL, the master that Sentinel names, or the owner of the bus's slot in a
Redis Cluster. Scripts run on pooled connections, as one command each, and are never sent twice:
nobody could tell whether the first one was executed.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import redis
from redis.asyncio import connection as aio
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from ...cursor import new_epoch
from ...exceptions import BackendUnavailable
from .scripts import Script

#: Seconds to connect and to answer, where the settings say nothing else.
CONNECT_TIMEOUT = 1.0
TIMEOUT = 5.0
#: Servers asked for one command before it is given up. None of them has executed it.
MAX_HOPS = 5

Address = tuple[str, int]
_LOOPBACK = ("127.0.0.1", "::1")

#: What one connection may be told because another was. The rest are objects of another kind of
#: client, or matters of how its pool is used.
_SHARED = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "client_name"}
    | {"socket_connect_timeout", "socket_timeout", "socket_keepalive", "socket_keepalive_options"}
)


class Connections:
    """Made without connecting; ``make_pool`` is called when a connection is first needed."""

    def __init__(
        self, label: str, make_pool: Callable[[], redis.ConnectionPool], *, borrowed: bool
    ) -> None:
        self._label = label
        self._make_pool = make_pool
        #: The pool is the project's: what is idle in it is not ours to disconnect.
        self._borrowed = borrowed
        self._lock = threading.Lock()
        _all.add(self)
        self._seed: redis.ConnectionPool | None = None
        # In a cluster: pools by address, and the one that seems to own the slot.
        self._nodes: dict[Address, redis.ConnectionPool | None] = {}
        self._owner: Address | None = None
        # The server process behind each connection, while it is connected.
        self._runs: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()

    def know(self, addresses: Sequence[Address]) -> None:
        """Name nodes of a cluster that can be asked when the first one does not answer."""
        for address in addresses:
            self._nodes.setdefault(address, None)

    def places(self) -> list[tuple[Hashable, ...]]:
        """Return which servers the settings name. Databases do not count: channels have none."""
        try:
            pool = self._make_pool()
        except Exception:  # noqa: BLE001  # because it may be the project's, and not its time yet
            return []
        given = pool.connection_kwargs
        if isinstance(pool, SentinelConnectionPool):
            sentinels = (each.connection_pool for each in pool.sentinel_manager.sentinels)
            return [
                ("sentinel", *_address(each.connection_kwargs), pool.service_name)
                for each in sentinels
            ]
        if "path" in given:
            return [("socket", os.path.realpath(given["path"]))]
        nodes = ({"host": host, "port": port} for host, port in self._nodes)
        return [("server", *_address(each)) for each in (given, *nodes)]

    def call(self, script: Script, keys: Sequence[str], *args: str | bytes | int) -> Any:
        """Run a script where the bus is, and return its raw answer.

        Raises:
            BackendUnavailable: there is no answer. After a timeout it may have run.
        """
        return self.call_with_run(script, keys, *args)[0]

    def call_with_run(
        self, script: Script, keys: Sequence[str], *args: str | bytes | int
    ) -> tuple[Any, bytes]:
        """Like :meth:`call`, and say which run of a server has answered."""
        pool = self._pool()
        for _ in range(MAX_HOPS):
            try:
                return self._call_on(pool, script, keys, args)
            except MovedError as error:
                # Without a host it is the one that was asked, by another port.
                host = error.host or pool.connection_kwargs.get("host", "localhost")
                pool = self._move(host, error.port)
            except AskError as error:
                # The other node has the books already, but not all the streams: it would take
                # those that are missing for lost, and what it wrote would be in the way of them.
                raise BackendUnavailable(
                    f"{self._label}: Redis: its slot is just being moved to another node."
                ) from error
            except (_NotSent, ReadOnlyError) as error:  # it has not been executed
                another = self._another(pool)
                if another is None:
                    raise self._unavailable(error) from error
                pool = another
            except (RedisError, OSError) as error:
                self._another(pool)
                raise self._unavailable(error) from error
        raise BackendUnavailable(f"{self._label}: no server says that the bus's keys are there.")

    def listening_connection(self) -> aio.AbstractConnection:
        """Return a new asyncio connection, not connected, to where the bus was last found.

        Raises:
            BackendUnavailable: Sentinel knows no master.
        """
        pool = self._pool()
        given = dict(pool.connection_kwargs)
        if isinstance(pool, SentinelConnectionPool):
            try:
                given["host"], given["port"] = pool.get_master_address()
            except (RedisError, OSError) as error:
                raise self._unavailable(error) from error
        made_by = {getattr(pool.connection_class, n).__module__ for n in ("connect", "_connect")}
        if not all(module.startswith("redis.") for module in made_by):
            raise BackendUnavailable(
                f"{self._label}: {pool.connection_class.__name__} makes connections of its own "
                "kind, and they can be published through but not listened on."
            )
        kind: type[aio.AbstractConnection] = aio.Connection
        if issubclass(pool.connection_class, UnixDomainSocketConnection):
            kind = aio.UnixDomainSocketConnection
        elif issubclass(pool.connection_class, SSLConnection):
            kind = aio.SSLConnection
        known = _parameters(kind)
        kwargs = {key: value for key, value in shared(given).items() if key in known}
        if kwargs.get("socket_connect_timeout") is None:
            kwargs["socket_connect_timeout"] = CONNECT_TIMEOUT
        # RESP 2 has no pushes between answers; and a silent channel is no reason to hang up.
        kwargs |= {"socket_timeout": None, "protocol": 2, "retry": None, "health_check_interval": 0}
        return kind(**kwargs)

    def close(self) -> None:
        """Disconnect what is idle; later calls connect again."""
        with self._lock:
            pools = [*self._nodes.values(), None if self._borrowed else self._seed]
            self._seed, self._nodes, self._owner = None, dict.fromkeys(self._nodes), None
        for pool in pools:
            if pool is not None:
                pool.disconnect(inuse_connections=False)

    # One command on one server

    def _call_on(
        self,
        pool: redis.ConnectionPool,
        script: Script,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
    ) -> tuple[Any, bytes]:
        try:
            connection = pool.get_connection()
        except (RedisError, OSError) as error:
            raise _NotSent(str(error)) from error
        try:
            try:
                run = self._run_of(connection)
            except (RedisError, OSError) as error:
                connection.disconnect()
                raise _NotSent(str(error)) from error
            tail = (len(keys), *keys, run, new_epoch(), *args)
            try:
                return _send(connection, "EVALSHA", script.sha, *tail), run
            except NoScriptError:
                return _send(connection, "EVAL", script.text, *tail), run
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # an answer may still come, and must not pass for another's
            raise
        finally:
            pool.release(connection)

    def _run_of(self, connection: AbstractConnection) -> bytes:
        run = self._runs.get(connection)
        if run is None:
            connection.register_connect_callback(self._forget_run)
            info = _info(connection)
            if info.get(b"redis_mode") == b"cluster":
                self._learn(_send(connection, "CLUSTER", "SLOTS"), getattr(connection, "host", ""))
            run = self._runs[connection] = run_of(info, connection)
        return run

    def _forget_run(self, connection: AbstractConnection) -> None:
        self._runs.pop(connection, None)

    # Where the bus is

    def _pool(self) -> redis.ConnectionPool:
        with self._lock:
            if self._seed is None:
                self._seed = self._make_pool()
            owner, seed = self._owner, self._seed
        return seed if owner is None else self._at(owner)

    def _at(self, address: Address) -> redis.ConnectionPool:
        with self._lock:
            pool = self._nodes.get(address)
            if pool is None:
                seed = self._seed or self._make_pool()
                given = {**seed.connection_kwargs, "host": address[0], "port": address[1]}
                pool = redis.ConnectionPool(
                    connection_class=seed.connection_class,
                    max_connections=seed.max_connections,
                    **given,
                )
                self._nodes[address] = pool
            return pool

    def _move(self, host: str, port: int) -> redis.ConnectionPool:
        owner = (host, port)
        pool = self._at(owner)
        with self._lock:
            self._owner = owner
        return pool

    def _another(self, pool: redis.ConnectionPool) -> redis.ConnectionPool | None:
        """Ask another node of the cluster the next time; it knows who has taken over."""
        with self._lock:
            known = list(self._nodes)
            if not known:
                return None
            here = self._owner
            turn = known.index(here) + 1 if here in known else 0
            self._owner = known[turn % len(known)]
            owner = self._owner
        return self._at(owner)

    def _learn(self, slots: Sequence[Sequence[Any]], asked: str) -> None:
        with self._lock:
            for _, _, *nodes in slots:
                for host, port, *_ in nodes:  # without a host it is the one that was asked
                    self._nodes.setdefault((host.decode() if host else asked, port), None)

    def _unavailable(self, error: BaseException) -> BackendUnavailable:
        return BackendUnavailable(f"{self._label}: Redis: {describe(error)}")


def _address(given: Mapping[str, Any]) -> Address:
    host, port = given.get("host") or "localhost", given.get("port") or 6379
    return "localhost" if host in _LOOPBACK else host.lower(), int(port)


def describe(error: BaseException) -> str:
    """Say what is wrong with Redis, and the way out if there is one."""
    text = str(error) or type(error).__name__
    if isinstance(error, NoPermissionError) or isinstance(error.__cause__, NoPermissionError):
        text += ". See 'Redis' in the documentation for what its user must be allowed to do."
    return text


class _NotSent(Exception):
    """There was no connection to send the command on."""


def _send(connection: AbstractConnection, *command: str | bytes | int) -> Any:
    connection.send_command(*command)
    return connection.read_response(disable_decoding=True)


def _info(connection: AbstractConnection) -> dict[bytes, bytes]:
    try:
        return parse_info(_send(connection, "INFO", "server"))
    except ResponseError as error:
        return without_info(error)


def without_info(error: ResponseError) -> dict[bytes, bytes]:
    """Return what is known of a server that has no ``INFO``, or raise the error if it has."""
    if isinstance(error, NoPermissionError) or "unknown command" not in str(error):
        raise error
    return {}


def run_of(info: Mapping[bytes, bytes], connection: object) -> bytes:
    """Name the server process behind a connection: some hide their ``run_id``, or more."""
    if run := info.get(b"run_id"):
        return run
    if process := info.get(b"process_id"):
        return b"%b/%b" % (process, info.get(b"tcp_port", b""))
    where = (getattr(connection, name, None) for name in ("host", "port", "path"))
    return "/".join(str(one) for one in where if one is not None).encode()


def parse_info(text: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in text.splitlines())
    return {key: value for key, _, value in lines}


def _parameters(kind: type[aio.AbstractConnection]) -> set[str]:
    makers = (vars(one).get("__init__") for one in kind.__mro__ if one is not object)
    return {name for maker in makers if maker for name in inspect.signature(maker).parameters}


def settle(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pool's arguments with all waits bounded, and trying again left to the caller."""
    kwargs = {**given, "retry": Retry(NoBackoff(), 0), "protocol": 2}
    for key, value in (("socket_connect_timeout", CONNECT_TIMEOUT), ("socket_timeout", TIMEOUT)):
        if kwargs.get(key) is None:
            kwargs[key] = value
    return kwargs


def shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a connection's arguments those that say where and as whom to connect."""
    return {k: v for k, v in given.items() if k in _SHARED or k.startswith("ssl_")}


# Forks. redis-py's pools look after themselves. A lock that another thread of the parent holds is
# held in the child for ever; and as long as a child has the listener's socket open too, Redis goes
# on sending to it after the parent has closed it.

_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_listening: weakref.WeakSet[Listening] = weakref.WeakSet()


class Listening(Protocol):
    def fileno(self) -> int:
        """Return the descriptor of the socket, or a negative number if there is none."""


def own(listening: Listening) -> None:
    """Remember who has a socket that a forked child must let go of."""
    _listening.add(listening)


def _after_fork() -> None:
    for connections in list(_all):
        connections._lock = threading.Lock()
    nothing = os.open(os.devnull, os.O_RDWR)
    for listening in list(_listening):
        descriptor = listening.fileno()
        if descriptor >= 0:
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _listening.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)
