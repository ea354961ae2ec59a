"""The Django app: after each ``migrate`` the tables are as durable as ``FLOSSE_BUS`` says."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PostgresBusConfig(AppConfig):
    name = "flosse_bus.contrib.postgres"
    label = "flosse_bus_postgres"
    verbose_name = "Event bus in PostgreSQL"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_migrate.connect(_persist, sender=self, dispatch_uid="flosse_bus.postgres.persistence")


def _persist(*, using: str, **kwargs: Any) -> None:
    from .persistence import apply

    apply(using)
