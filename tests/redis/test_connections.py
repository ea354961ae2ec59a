"""The ways to reach a Redis, and what the settings say of them."""

from __future__ import annotations

import pytest
import redis

from flosse_bus import buses
from flosse_bus.backends.redis import RedisBackend
from flosse_bus.exceptions import BackendUnavailable, InvalidBusBackend
from tests.brokers import Certificates, RedisServer, has_tls, redis_binaries
from tests.conftest import missing
from tests.redis.help import backend_at, bus_at, publish, round_trip


def test_a_database_number_keeps_keys_apart_and_shares_channels(redis_server, redis_url):
    with bus_at(redis_url[:-1] + "3") as bus:
        round_trip(bus)
    assert redis_server.execute("DBSIZE") == 0


def test_a_unix_socket(tmp_path):
    with RedisServer(tmp_path, unix=True) as server, bus_at(server.url) as bus:
        round_trip(bus)


def test_tls(tmp_path):
    binary = next((path for _, path in redis_binaries() if has_tls(path)), None)
    if binary is None:
        missing("no redis-server with TLS on this machine")
    tls = Certificates(tmp_path)
    with RedisServer(tmp_path, binary=binary, tls=tls) as server, bus_at(server.url) as bus:
        round_trip(bus)
        # A certificate that nobody vouches for is refused.
        stranger = f"rediss://127.0.0.1:{server.port}/0"
        with bus_at(stranger) as other, pytest.raises(BackendUnavailable, match=r"(?i)certificate"):
            other.publish("a", 1, using=None)


#: What the documentation says that a user of the bus needs.
RULES = [
    "~{flosse}:*", "allchannels", "-@all", "+info", "+ping", "+select", "+client|setinfo",
    "+client|setname", "+eval", "+evalsha", "+subscribe", "+psubscribe", "+unsubscribe",
    "+punsubscribe", "+publish", "+hget", "+hmget", "+hset", "+zrange", "+zscore", "+zadd", "+zrem", "+xadd", "+xtrim",
    "+xrange", "+pexpire", "+persist", "+exists", "+del", "+unlink", "+time",
    "+xlen", "+xrevrange", "+xdel", "+get", "+set",
]  # fmt: skip


def rules_for(server):
    version = tuple(map(int, server.info("server")["redis_version"].split(".")[:2]))
    if version >= (7, 2):
        return RULES
    # Before 7.0 there were no channel rules by default, before 7.2 no CLIENT SETINFO.
    return [rule.replace("+client|setinfo", "+client") for rule in RULES]


def test_an_acl_user_with_what_is_documented(redis_server, redis_url):
    redis_server.execute(
        "ACL", "SETUSER", "bus", "reset", "on", ">secret", *rules_for(redis_server)
    )
    try:
        with bus_at(redis_url.replace("//", "//bus:secret@"), history_bytes=20) as bus:
            round_trip(bus)
            for n in range(3):
                bus.publish("b", "x" * 15, using=None, idempotency_key=f"key {n // 2}")
            with bus.subscribe("a.*") as events:
                event = publish(bus, "a.b", 1)
                assert next(events) == event
            bus.backend.flush()
        with bus_at(redis_url.replace("//", "//bus:secret@"), history_ttl=None) as bus:
            for n in range(40):  # enough to look for dead topics
                bus.publish(f"c.{n}", n, using=None)
        redis_server.execute("ACL", "SETUSER", "bus", "-info")
        with (
            bus_at(redis_url.replace("//", "//bus:secret@")) as bus,
            pytest.raises(BackendUnavailable, match="documentation for what its user"),
        ):
            bus.publish("a", 1, using=None)
        with (
            bus_at(redis_url.replace("//", "//bus:wrong@")) as bus,
            pytest.raises(BackendUnavailable, match=r"(?i)password") as caught,
        ):
            bus.publish("a", 1, using=None)
        assert "wrong@" not in str(caught.value)
    finally:
        redis_server.execute("ACL", "DELUSER", "bus")


def test_a_django_redis_cache_lends_its_settings(redis_server, redis_url, settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "shared": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": redis_url[:-1] + "5",
            "OPTIONS": {"CONNECTION_POOL_KWARGS": {"client_name": "from-the-cache"}},
        },
    }
    with bus_at(options={"cache": "shared"}) as bus, bus.subscribe("a"):
        round_trip(bus)
        names = [client["name"] for client in redis_server.client().client_list()]
        assert names.count("from-the-cache") >= 2  # the listener's too
        assert bus.backend.check() == []
    for alias, message in [("default", "not the alias of a django-redis"), ("no", "not the alias")]:
        backend = backend_at(options={"cache": alias})
        with pytest.raises(InvalidBusBackend, match=message):
            backend.tail()
        assert [one.id for one in backend.check()] == ["flosse_bus.E001"]


@pytest.mark.parametrize("decoded", [False, True])
def test_a_pool_of_the_projects(redis_url, decoded):
    pool = redis.ConnectionPool.from_url(redis_url, decode_responses=decoded, max_connections=3)
    for given in (pool, lambda: pool):
        with bus_at(options={"connection_pool": given}) as bus:
            round_trip(bus)
    # Closing the bus leaves the project's connections alone.
    with redis.Redis(connection_pool=pool) as client:
        assert client.ping()
    pool.disconnect()
    with (
        bus_at(options={"connection_pool": object()}) as bus,
        pytest.raises(InvalidBusBackend, match="connection_pool"),
    ):
        bus.publish("a", 1, using=None)


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        ("", {}, "exactly one of LOCATION"),
        ("redis://h", {"cache": "default"}, "exactly one of LOCATION"),
        ("", {"cache": "default", "connection_pool": 1}, "exactly one of LOCATION"),
        ("http://h", {}, r"\['LOCATION'\]: Redis URL must"),
        ("redis://h:port", {}, r"\['LOCATION'\]"),
        ("redis://h?timeout=5", {}, r"\['LOCATION'\].*'timeout'"),
        ("redis://h?ssl_cert_reqs=none", {}, r"\['LOCATION'\].*'ssl_cert_reqs'"),
        ("redis://h?max_connections=20", {}, None),
        ("redis:///0", {"sentinels": [("h", 1)]}, "name of the service"),
        ("redis://h", {"sentinel_kwargs": {}, "sentinels": None}, None),
        ("redis://h", {"sentinel_kwargs": {"password": "x"}}, "'sentinels'"),
    ],
)
def test_settings_that_cannot_work_say_which(location, options, message):
    if message is None:
        backend_at(location, options=options)
        return
    with pytest.raises(InvalidBusBackend, match=message):
        backend_at(location, options=options)


def test_the_setting_reaches_the_backend(configure, redis_url):
    configure(BACKEND="flosse_bus.backends.redis.RedisBackend", LOCATION=redis_url)
    assert isinstance(buses["default"].backend, RedisBackend)
    round_trip(buses["default"])
    configure(BACKEND="flosse_bus.backends.redis.RedisBackend", OPTIONS={"cash": "default"})
    with pytest.raises(InvalidBusBackend, match="'cash' is no option of RedisBackend"):
        buses["default"]
