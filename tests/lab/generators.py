"""Generator views, each in a sync and an async form, and a page that says how they are doing."""

from __future__ import annotations

import asyncio
import threading
import time

from django.contrib.auth import get_user_model, login, logout
from django.db import connection
from django.http import HttpResponse, JsonResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.views.decorators.csrf import csrf_exempt

from flosse_bus import bus, sse_stream
from testproject.urls import urlpatterns as project
from tests.lab import browsing
from tests.lab.middleware import visitor

PAUSE = 0.02


class Log:
    """What the views of one name have done."""

    def __init__(self):
        self.gate = threading.Event()
        self.yielded = self.begun = self.closed = 0


logs = {}


def log_of(name):
    return logs.setdefault(name, Log())


def state(request, name):
    log = log_of(name)
    if "open" in request.GET:
        log.gate.set()
    return JsonResponse({"begun": log.begun, "yielded": log.yielded, "closed": log.closed})


def log_in(request):
    """Return the key of a new session of the example project's user."""
    login(request, get_user_model().objects.get(username="demo"))
    return HttpResponse(request.session.session_key)


def log_out(request):
    logout(request)
    return HttpResponse()


class Watched:
    """Counts a generator in, and out by its ``finally``."""

    def __init__(self, name):
        self.log = log_of(name)

    def __enter__(self):
        self.log.begun += 1
        return self.log

    def __exit__(self, kind, error, traceback):
        self.log.closed += 1


def around():
    """Return what holds in the generator."""
    return {
        "yes": gettext("Yes"),
        "zone": timezone.get_current_timezone_name(),
        "visitor": visitor.get(),
        "board": reverse("board"),
    }


@sse_stream
def gated(request, name):
    with Watched(name) as log:
        yield ("around", around(), "1")
        log.yielded += 1
        assert log.gate.wait(20)
        yield ("second", "Grüße", "2")
        log.yielded += 1


@sse_stream
async def agated(request, name):
    with Watched(name) as log:
        yield ("around", around(), "1")
        log.yielded += 1
        while not log.gate.is_set():
            await asyncio.sleep(PAUSE)
        yield ("second", "Grüße", "2")
        log.yielded += 1


@sse_stream(retry=200)
def ticking(request, name):
    with Watched(name) as log:
        while True:
            log.yielded += 1
            yield ("tick", log.yielded)
            time.sleep(PAUSE)


@sse_stream(retry=200)
async def aticking(request, name):
    with Watched(name) as log:
        while True:
            log.yielded += 1
            yield ("tick", log.yielded)
            await asyncio.sleep(PAUSE)


@sse_stream(heartbeat=0.1)
def silent(request, name):
    with Watched(name) as log:
        log.gate.wait(20)
        yield "at last"


@sse_stream(heartbeat=0.1)
async def asilent(request, name):
    with Watched(name) as log:
        while not log.gate.is_set():
            await asyncio.sleep(PAUSE)
        yield "at last"


def names():
    return [("names", sorted(get_user_model().objects.values_list("username", flat=True)))]


@sse_stream(heartbeat=0.1)
def following(request, name):
    with Watched(name):
        yield from bus.follow("news", after=request.sse.last_event_id, snapshot=names)


@sse_stream(heartbeat=0.1)
async def afollowing(request, name):
    with Watched(name):
        async for item in bus.afollow("news", after=request.sse.last_event_id, snapshot=names):
            yield item


@csrf_exempt
@sse_stream
def posted(request, name):
    with Watched(name):
        yield request.POST["question"]
        yield request.body


@csrf_exempt
@sse_stream
async def aposted(request, name):
    with Watched(name):
        yield request.POST["question"]
        yield request.body


@sse_stream
def big(request, name):
    with Watched(name) as log:
        for _ in range(int(request.GET.get("megabytes", "10"))):
            log.yielded += 1
            yield "x" * 1_000_000


@sse_stream
async def abig(request, name):
    with Watched(name) as log:
        for _ in range(int(request.GET.get("megabytes", "10"))):
            log.yielded += 1
            yield "x" * 1_000_000


@sse_stream
def asking(request, name):
    with Watched(name):
        yield str(get_user_model().objects.count())
        yield str(connection.connection is not None)


@sse_stream
async def aasking(request, name):
    with Watched(name):
        yield str(await get_user_model().objects.acount())
        yield "True"


VIEWS = {
    "gated": (gated, agated),
    "ticking": (ticking, aticking),
    "silent": (silent, asilent),
    "following": (following, afollowing),
    "posted": (posted, aposted),
    "big": (big, abig),
    "asking": (asking, aasking),
    **browsing.VIEWS,
}

urlpatterns = [
    *project,
    *browsing.urlpatterns,
    path("lab/state/<name>/", state),
    path("lab/session/", log_in),
    path("lab/logout/", log_out),
    *[
        path(f"lab/{kind}/{label}/<name>/", view)
        for label, views in VIEWS.items()
        for kind, view in zip(("sync", "async"), views, strict=True)
    ],
]
