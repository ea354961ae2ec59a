"""Routes of this project's own rows."""

from django.conf import settings
from django.urls import path

from flosse_bus.permissions import IsAuthenticated
from flosse_bus.views import SubscribeView

stream = SubscribeView.as_view(
    topics=["load.{topic}"], permission_classes=[IsAuthenticated] if settings.LOGIN else []
)
urlpatterns = [path("stream/<int:topic>/", stream)]
