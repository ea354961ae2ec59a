"""The bus, and the pages of clients that live in browsers."""

from __future__ import annotations

from django.urls import include, path

from tests.clients.urls import urlpatterns as of_clients

urlpatterns = [*of_clients, path("", include("flosse_bus.urls"))]
