"""The contract on a real Redis, and what is Redis's own."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from flosse_bus.backends.redis import RedisBackend
from flosse_bus.test import BackendContract


class TestRedisBackend(BackendContract):
    forgets_by_class = True

    @pytest.fixture(autouse=True)
    def _server(self, redis_server, redis_url):
        self.server = redis_server
        self.url = redis_url

    def make_backend(self, config):
        changed = {"location": self.url, "key_prefix": uuid.uuid4().hex}
        return RedisBackend(dataclasses.replace(config, **changed))

    def another(self, backend, **settings):
        return RedisBackend(dataclasses.replace(backend.config, **settings))

    def cut(self, backend):
        for kind in ("normal", "pubsub"):
            self.server.execute("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
