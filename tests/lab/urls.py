"""Views that only the suite needs."""

from __future__ import annotations

from django.urls import include, path

from flosse_bus.permissions import BaseSSEPermission
from flosse_bus.views import SubscribeView


class Ask(BaseSSEPermission):
    """Asks the test."""

    answer = staticmethod(lambda request: True)

    def has_permission(self, request):
        return type(self).answer(request)


def private(**kwargs):
    return SubscribeView.as_view(topics=["private"], permission_classes=[Ask], **kwargs)


urlpatterns = [
    path("asked/", private()),
    path("asked-again/", private(recheck_every=0.01)),
    path("events/", include("flosse_bus.urls")),
]
