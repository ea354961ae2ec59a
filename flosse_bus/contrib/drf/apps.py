"""The app: the template and the script of the browsable API's page."""

from __future__ import annotations

from django.apps import AppConfig


class DRFConfig(AppConfig):
    name = "flosse_bus.contrib.drf"
    label = "flosse_bus_drf"
    verbose_name = "Event streams in the API"
