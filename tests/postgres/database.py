"""Databases of a real server as aliases of Django's, with the tables of the bus in them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.test import override_settings

from flosse_bus.backends.postgres import PostgresBackend
from flosse_bus.conf import load

APPS = [*settings.INSTALLED_APPS, "flosse_bus.contrib.postgres"]

_numbers = itertools.count(1)


def entry(uri, **changes):
    """Return an entry of DATABASES."""
    url = urlsplit(uri)
    options = changes.pop("OPTIONS", {})
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.removeprefix("/"),
        "USER": url.username,
        "PASSWORD": "",
        "HOST": url.hostname,
        "PORT": url.port,
        "OPTIONS": options,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "AUTOCOMMIT": True,
        "ATOMIC_REQUESTS": False,
        "TIME_ZONE": None,
        "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
        **changes,
    }


@contextlib.contextmanager
def alias(uri, name="pg", **changes):
    """Configure a database for a while. Connections of this thread to it are closed after."""
    connections.settings[name] = entry(uri, **changes)
    try:
        yield name
    finally:
        connections[name].close()
        if "pool" in changes.get("OPTIONS", {}):
            connections[name].close_pool()
        del connections[name]
        del connections.settings[name]


def migrate(using, target="0001_initial"):
    """Migrate the tables of the bus to a target; ``None`` removes them."""
    with override_settings(INSTALLED_APPS=APPS):
        MigrationExecutor(connections[using]).migrate([("flosse_bus_postgres", target)])


def config(**changes):
    """Return the settings of a bus that nobody else writes to."""
    changes.setdefault("key_prefix", f"test-{next(_numbers)}")
    return dataclasses.replace(load("default"), **changes)


@contextlib.contextmanager
def tables(server, name, using="pg", **changes):
    """Make a database with the tables of the bus, and an alias of it."""
    server.execute(f"CREATE DATABASE {name}")
    with alias(server.uri_of(name), using, **changes):
        migrate(using)
        yield using


@contextlib.contextmanager
def backend(using="pg", options=None, **changes):
    """Make a backend, and close its connections after."""
    made = PostgresBackend(config(**changes), using=using, **(options or {}))
    try:
        yield made
    finally:
        made.close()


def sql(using, statement, *params):
    """Run a statement by Django's connection, and return its rows if it has some."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else None
