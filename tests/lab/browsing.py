"""Views for the page that checks a server with a browser's own EventSource: ``page.html``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.csrf import csrf_exempt

from flosse_bus import bus, sse_stream
from flosse_bus.permissions import BaseSSEPermission
from tests.lab import nasty

PAGE = Path(__file__).with_name("page.html").read_text()

#: With which ids the clients of each name have come.
asked = defaultdict(list)


class Nobody(BaseSSEPermission):
    def has_permission(self, request):
        return False


@xframe_options_exempt
def page(request):
    return HttpResponse(PAGE)


def asked_by(request, name):
    return JsonResponse(asked[name], safe=False)


@csrf_exempt
def publish(request):
    query = request.GET
    event = bus.publish(query["topic"], query["data"], event=query.get("event"))
    return HttpResponse(event.id)


@csrf_exempt
def withdraw(request):
    """End the bus's streams of clients that are not logged in."""
    for place in bus.streams.of_session(None):
        place.withdraw("logout")
    return HttpResponse()


def come(request, name):
    """Return how far the client has come, and what ends it for good."""
    after = int(request.headers.get("Last-Event-ID", 0))
    asked[name].append(after)
    return after, HttpResponse(status=int(request.GET["last"])) if after >= 6 else None


def three(after):
    for number in range(after + 1, after + 4):
        yield ("number", number, number)


async def athree(after):
    for number in range(after + 1, after + 4):
        yield ("number", number, number)


@sse_stream(retry=50)
def counting(request, name):
    after, refusal = come(request, name)
    return refusal or three(after)


@sse_stream(retry=50)
def acounting(request, name):
    after, refusal = come(request, name)
    return refusal or athree(after)


@sse_stream(permission_classes=[Nobody])
def denied(request, name):
    yield "never"


@sse_stream(permission_classes=[Nobody])
async def adenied(request, name):
    yield "never"


@sse_stream
def cookie(request, name):
    yield request.COOKIES.get("lab")


@sse_stream
async def acookie(request, name):
    yield request.COOKIES.get("lab")


@sse_stream
def nasties(request, name):
    for raw, *_ in nasty.said():
        yield raw
    yield nasty.LAST


@sse_stream
async def anasties(request, name):
    for raw, *_ in nasty.said():
        yield raw
    yield nasty.LAST


VIEWS = {
    "counting": (counting, acounting),
    "denied": (denied, adenied),
    "cookie": (cookie, acookie),
    "nasties": (nasties, anasties),
}

urlpatterns = [
    path("lab/page/", page),
    path("lab/asked/<name>/", asked_by),
    path("lab/publish/", publish),
    path("lab/withdraw/", withdraw),
    path("lab/names/", lambda request: JsonResponse([nasty.LAST, nasty.NAMES], safe=False)),
]
