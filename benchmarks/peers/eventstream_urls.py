"""Routes of django-eventstream."""

import django_eventstream
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.urls import path


def stream(request, topic: int):
    return django_eventstream.views.events(request, channels=[f"load.{topic}"])


urlpatterns = [path("stream/<int:topic>/", login_required(stream) if settings.LOGIN else stream)]
