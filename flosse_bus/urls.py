"""``path("events/", include("flosse_bus.urls"))``."""

from __future__ import annotations

from django.urls import path

from .health import health
from .views import SubscribeView

app_name = "flosse_bus"

urlpatterns = [
    path("", SubscribeView.as_view(), name="subscribe"),
    path("health/", health, name="health"),
]
