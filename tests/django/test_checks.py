from __future__ import annotations

import pytest
import redis
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from flosse_bus import topic
from flosse_bus.topics import authorisers
from tests.postgres import database

BUS, CORS = "flosse_bus.middleware.BusMiddleware", "corsheaders.middleware.CorsMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
LISTED = {"default": {"ALLOWED_ORIGINS": ["https://app.example.com"]}}


def found(settings, **changes):
    for name, value in changes.items():
        setattr(settings, name, value)
    settings.SILENCED_SYSTEM_CHECKS = []
    return {message.id: message.msg for message in run_checks(tags=["flosse_bus"])}


def test_a_sound_project_has_nothing_to_hear(settings):
    assert found(settings, DEBUG=True) == {}


@pytest.mark.parametrize(
    ("changes", "id", "message"),
    [
        ({"FLOSSE_BUS": {"default": {"HISTORY": 1}}}, "flosse_bus.E001", "['HISTORY']: no such setting"),
        ({"FLOSSE_BUS": {"default": {"BACKEND": "x.Y"}}}, "flosse_bus.E001", "['BACKEND']"),
        ({"FLOSSE_BUS": "memory"}, "flosse_bus.E001", "FLOSSE_BUS: expected a dict"),
        ({"FLOSSE_BUS": {"audit": {}}}, "flosse_bus.E001", "there must be a bus 'default'"),
        ({"DEBUG": False}, "flosse_bus.W001", "MemoryBackend reaches only"),
        ({"MIDDLEWARE": []}, "flosse_bus.W002", "MIDDLEWARE does not hold"),
        ({"MIDDLEWARE": [BUS, GZIP, BUS]}, "flosse_bus.W002", "2 times"),
        ({"MIDDLEWARE": [GZIP, BUS]}, "flosse_bus.W002", "GZipMiddleware' comes before"),
        ({"MIDDLEWARE": (CORS, BUS), "FLOSSE_BUS": LISTED}, "flosse_bus.W002", "comes before"),
        ({"FLOSSE_BUS": {"default": {"PUBLIC_TOPICS": ["**"]}}}, "flosse_bus.W003", "is never asked"),
    ],
)  # fmt: skip
def test_what_is_found(settings, changes, id, message):
    settings.DEBUG = True
    assert message in found(settings, **changes)[id]


@pytest.mark.parametrize(
    "changes",
    [
        {"MIDDLEWARE": ["django.middleware.http.ConditionalGetMiddleware", BUS, GZIP]},
        {"MIDDLEWARE": ["django.middleware.security.SecurityMiddleware", BUS]},
        {"MIDDLEWARE": [BUS, CORS], "FLOSSE_BUS": LISTED},
        {"MIDDLEWARE": [CORS, BUS]},  # no bus lists an origin
    ],
)
def test_places_of_the_middleware_that_do_no_harm(settings, changes):
    assert found(settings, DEBUG=True, **changes) == {}


def test_an_authoriser_is_shadowed_only_if_every_bus_makes_its_topic_public(settings):
    def function(request, n): ...

    topic("x.{n}")(function)
    try:
        both = {"default": {"PUBLIC_TOPICS": ["x.*"]}, "audit": {}}
        assert found(settings, DEBUG=True, FLOSSE_BUS=both) == {}
        both["audit"] = {"PUBLIC_TOPICS": ["x.**"]}
        assert "'x.{n}'" in found(settings, FLOSSE_BUS=both)["flosse_bus.W003"]
    finally:
        authorisers.unregister(function)


REDIS = "flosse_bus.backends.redis.RedisBackend"
POSTGRES = "flosse_bus.backends.postgres.PostgresBackend"


def at(location, **changes):
    return {"BACKEND": REDIS, "LOCATION": location, **changes}


def through(**options):
    return {"BACKEND": REDIS, "OPTIONS": options}


def in_database(using, prefix="flosse", **options):
    return {"BACKEND": POSTGRES, "KEY_PREFIX": prefix, "OPTIONS": {"using": using, **options}}


POOL = redis.ConnectionPool(host="10.0.0.1", db=2)
BY_SENTINEL = {"sentinels": [("10.0.0.3", 26379), ("10.0.0.4", 26379)]}


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (at("redis://10.0.0.1/0"), at("redis://10.0.0.1/0"), True),
        (at("redis://10.0.0.1/0"), at("redis://a:b@10.0.0.1:6379/5?socket_timeout=3"), True),
        (at("redis://127.0.0.1/0"), at("redis://localhost/0"), True),
        (at("redis://10.0.0.1/0"), at("rediss://10.0.0.1/0"), True),
        (at("redis://10.0.0.1/0"), at("redis://10.0.0.2/0"), False),
        (at("redis://10.0.0.1/0"), at("redis://10.0.0.1:6380/0"), False),
        (at("redis://10.0.0.1/0"), at("redis://10.0.0.1/0", KEY_PREFIX="audit"), False),
        (at("unix:///run/a.sock"), at("unix:///run/a.sock?db=1"), True),
        (at("unix:///run/a.sock"), at("unix:///run/b.sock"), False),
        (at("redis://n1,redis://n2"), at("redis://n3,redis://n2"), True),
        (at("redis://10.0.0.1"), through(connection_pool=POOL), True),
        (at("redis://10.0.0.1"), through(connection_pool=lambda: POOL), True),
        (at("redis://10.0.0.2"), through(connection_pool=lambda: POOL), False),
        (through(connection_pool=lambda: 1 / 0), through(connection_pool=lambda: POOL), False),
        (at("redis://10.0.0.1"), through(cache="redis"), True),
        (at("redis://main/0", OPTIONS=BY_SENTINEL), at("redis://main/1", OPTIONS=BY_SENTINEL), True),
        (at("redis://main/0", OPTIONS=BY_SENTINEL), at("redis://side/0", OPTIONS=BY_SENTINEL), False),
        (in_database("pg"), in_database("pg"), True),
        (in_database("pg"), in_database("pg", schema="public"), True),
        (in_database("pg"), in_database("again"), True),
        (in_database("pg"), in_database("pg", schema="audit"), False),
        (in_database("pg"), in_database("pg", prefix="audit"), False),
        (in_database("pg"), at("redis://10.0.0.1"), False),
        ({}, {}, False),
    ],
)  # fmt: skip
def test_buses_that_share_a_log_are_told_of(settings, one, other, shared):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://10.0.0.1/9"},
    }
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "flosse_bus.contrib.postgres"]
    uri = "postgresql://someone@10.0.0.9:5432/shop"
    with database.alias(uri, "pg"), database.alias(uri, "again", USER="another"):
        messages = found(settings, DEBUG=True, FLOSSE_BUS={"default": one, "audit": other})
    assert ("flosse_bus.W005" in messages) is shared, messages
    if shared:
        assert "FLOSSE_BUS['default'] and FLOSSE_BUS['audit']" in messages["flosse_bus.W005"]


def test_manage_py_check_fails_on_a_bad_setting(settings):
    settings.FLOSSE_BUS = {"default": {"RETRY": "soon"}}
    with pytest.raises(SystemCheckError, match=r"FLOSSE_BUS\['default'\]\['RETRY'\]"):
        call_command("check")
