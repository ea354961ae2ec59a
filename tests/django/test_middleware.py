"""BusMiddleware: what it does to streams, and that it ends them when the server stops."""

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

from flosse_bus import bus, buses
from flosse_bus.middleware import BusMiddleware
from flosse_bus.transport import shutdown

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = "https://app.example.com"


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
    ("said", "sent"),
    [
        (None, {"no-cache", "no-transform"}),
        ("no-cache, no-transform", {"no-cache", "no-transform"}),
        ("private", {"private", "no-cache", "no-transform"}),
        ("no-store", {"no-store", "no-cache", "no-transform"}),
        ("public, max-age=60", {"public", "max-age=60", "no-cache", "no-transform"}),
    ],
)
def test_what_a_view_says_of_caches_is_kept(said, sent):
    def view(request):
        headers = {} if said is None else {"Cache-Control": said}
        return HttpResponse(content_type="TEXT/EVENT-STREAM", headers=headers)

    response = BusMiddleware(view)(RequestFactory().get("/"))
    assert set(response["Cache-Control"].split(", ")) == sent


@pytest.mark.parametrize(
    "content_type", ["text/event-streams", "text/event-stream-not; x=y", "text/plain", ""]
)
def test_what_is_no_event_stream(content_type):
    def view(request):
        return HttpResponse(headers={"Content-Type": content_type})

    assert "X-Accel-Buffering" not in BusMiddleware(view)(RequestFactory().get("/"))


@pytest.mark.parametrize("middleware", [list, tuple])
def test_where_nothing_is_further_out_the_mark_is_taken_off(settings, client, middleware):
    settings.MIDDLEWARE = middleware(["flosse_bus.middleware.BusMiddleware"])
    response = client.get("/events/?topic=news")
    assert "Content-Encoding" not in response
    response.close()


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

    def test_streams_of_a_bus_that_is_first_used_then_end_too(self):
        """The signal comes while the server's very first request is on its way."""
        before = signal.signal(signal.SIGTERM, lambda *args: None)
        try:
            buses.close_all()
            shutdown.install()
            signal.raise_signal(signal.SIGTERM)
            with bus.subscribe("news") as events:
                assert list(events) == []
        finally:
            signal.signal(signal.SIGTERM, before)
            buses.close_all()

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
