"""BusMiddleware: streams leave as they are, with CORS for the origins that are listed."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.middleware.gzip import GZipMiddleware
from django.test import RequestFactory

from flosse_bus import bus
from flosse_bus.middleware import BusMiddleware
from flosse_bus.transport import shutdown

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = "https://app.example.com"


@pytest.mark.parametrize("order", ["first", "inside gzip", "absent"])
def test_streams_are_not_compressed(settings, subscribe, order):
    ours, gzip_ = "flosse_bus.middleware.BusMiddleware", "django.middleware.gzip.GZipMiddleware"
    settings.MIDDLEWARE = {
        "first": [ours, gzip_],
        "inside gzip": [gzip_, ours],
        "absent": [gzip_],
    }[order]
    stream = subscribe("topic=news", HTTP_ACCEPT_ENCODING="gzip")
    if order == "first":
        assert "Content-Encoding" not in stream.response
    next(stream)
    bus.publish("news", "x" * 1000)
    assert stream.event().data == "x" * 1000


def test_streams_of_others_get_the_headers_too():
    def view(request):
        return StreamingHttpResponse(iter([b"data: 1\n\n"]), content_type="text/event-stream")

    response = BusMiddleware(view)(RequestFactory().get("/"))
    assert response["X-Accel-Buffering"] == "no"
    assert response["Cache-Control"] == "no-cache, no-transform"


def test_other_responses_are_left_alone():
    def view(request):
        return HttpResponse("x" * 1000)

    request = RequestFactory().get("/", HTTP_ACCEPT_ENCODING="gzip", HTTP_ORIGIN=ORIGIN)
    response = BusMiddleware(GZipMiddleware(view))(request)
    assert gzip.decompress(response.content) == b"x" * 1000
    assert "X-Accel-Buffering" not in response
    assert "Access-Control-Allow-Origin" not in response


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("https://app.example.com.evil.example", False),
        ("https://APP.example.com", False),
        ("http://app.example.com", False),
        ("null", False),
        (None, False),
    ],
)
def test_cors(subscribe, configure, origin, allowed):
    configure(ALLOWED_ORIGINS=[ORIGIN])
    headers = {} if origin is None else {"HTTP_ORIGIN": origin}
    response = subscribe("topic=news", **headers).response
    assert response.get("Access-Control-Allow-Origin") == (ORIGIN if allowed else None)
    assert response.get("Access-Control-Allow-Credentials") == ("true" if allowed else None)
    assert "Origin" in response["Vary"]


def test_without_origins_there_is_no_vary(subscribe):
    response = subscribe("topic=news", HTTP_ORIGIN=ORIGIN).response
    assert "Access-Control-Allow-Origin" not in response
    assert "Origin" not in response.get("Vary", "")


class TestShutdown:
    def test_streams_end_and_whoever_handled_the_signal_still_does(self, monkeypatch):
        handled = []
        before = signal.signal(signal.SIGTERM, lambda *args: handled.append(args[0]))
        try:
            shutdown.install()
            shutdown.install()
            with bus.subscribe("news") as events:
                signal.raise_signal(signal.SIGTERM)
                assert list(events) == []
            assert handled == [signal.SIGTERM]
            # Those who come later end at once as well.
            with bus.subscribe("news") as events:
                assert list(events) == []
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_an_ignored_signal_stays_ignored(self):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            shutdown.install()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_elsewhere_than_in_the_main_thread_nothing_is_done(self):
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            thread = threading.Thread(target=shutdown.install)
            thread.start()
            thread.join()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_the_default_action_still_ends_the_process(self):
        code = (
            "import os, signal; from flosse_bus.transport import shutdown; shutdown.install(); "
            "os.kill(os.getpid(), signal.SIGTERM); signal.pause()"
        )
        process = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
        assert process.returncode == -signal.SIGTERM
