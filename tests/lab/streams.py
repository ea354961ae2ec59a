"""Event streams as projects write them by hand, beside those of the app."""

from __future__ import annotations

from django.conf.urls.i18n import i18n_patterns
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path
from django.views.decorators.cache import never_cache

from flosse_bus import sse_stream
from flosse_bus.permissions import BaseSSEPermission
from flosse_bus.views import SubscribeView


class No(BaseSSEPermission):
    def has_permission(self, request):
        return False


BLOCKS = [b"data: %d\n\n" % n for n in range(100)]
#: How many blocks have been asked for: by whoever looks ahead, more than by whoever reads.
taken = []


def sync_stream(request):
    def blocks():
        for block in BLOCKS:
            taken.append(block)
            yield block

    return StreamingHttpResponse(blocks(), content_type="text/event-stream")


async def async_stream(request):
    async def blocks():
        for block in BLOCKS:
            taken.append(block)
            yield block

    return StreamingHttpResponse(blocks(), content_type="text/event-stream")


def complete(request):
    """No stream at all but all of it at once, as some answer to long polling."""
    return HttpResponse(b"".join(BLOCKS), content_type="Text/Event-Stream ; charset=utf-8")


def versioned(request):
    response = sync_stream(request)
    response["ETag"] = '"1"'
    response["Last-Modified"] = "Mon, 01 Jan 2024 00:00:00 GMT"
    response["Cache-Control"] = "private, max-age=5"
    return response


def marked(request):
    """As a generator view that may take a body."""
    return sync_stream(request)


def exposing(request):
    response = sync_stream(request)
    response["Access-Control-Expose-Headers"] = "X-Mine"
    return response


@sse_stream
def generated(request):
    yield "1"


@sse_stream(permission_classes=[No])
async def generated_for_nobody(request):
    yield "1"


def broken(request):
    raise ValueError


for view in (marked, exposing, broken):
    view.is_event_stream = True


def ordinary(request):
    return HttpResponse(request.method)


def details(request):
    return JsonResponse(
        {
            "accepted": request.sse.accepted,
            "last_event_id": request.sse.last_event_id,
            "encoding": request.headers.get("Accept-Encoding"),
            "match": request.headers.get("If-None-Match") or request.headers.get("If-Match"),
        }
    )


class AuditView(SubscribeView):
    bus = "audit"


urlpatterns = [
    path("sync/", sync_stream),
    path("async/", async_stream),
    path("complete/", complete),
    path("versioned/", versioned),
    path("marked/", marked),
    path("exposing/", exposing),
    path("generated/", generated),
    path("generated/for-nobody/", generated_for_nobody),
    path("broken/", broken),
    path("ordinary/", ordinary),
    path("details/", details),
    path("audit/", SubscribeView.as_view(bus="audit")),
    path("audit/class/", never_cache(AuditView.as_view())),
    path("refused/", SubscribeView.as_view(topics=["a"], permission_classes=[No])),
    path("events/", include("flosse_bus.urls")),
    *i18n_patterns(path("local/", SubscribeView.as_view())),
]
