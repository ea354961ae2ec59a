"""The contract on a real PostgreSQL."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from flosse_bus.backends.postgres import PostgresBackend
from flosse_bus.test import BackendContract
from tests.postgres import database


@pytest.fixture(scope="module")
def tables(postgres_server, django_db_blocker):
    name = f"contract_{uuid.uuid4().hex}"
    with django_db_blocker.unblock(), database.tables(postgres_server, name, "contract"):
        yield


class TestPostgresBackend(BackendContract):
    forgets_by_class = True

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server, tables):
        self.server = postgres_server

    def make_backend(self, config):
        config = dataclasses.replace(config, key_prefix=uuid.uuid4().hex)
        return PostgresBackend(config, using="contract")

    def another(self, backend, **settings):
        config = dataclasses.replace(backend.config, **settings)
        return PostgresBackend(config, using="contract")

    def cut(self, backend):
        self.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname LIKE 'contract_%' "
            "AND application_name LIKE 'flosse_bus %'"
        )
