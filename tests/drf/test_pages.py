"""The browsable API: a page for the endpoint, in which a script shows the stream."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from django.contrib.staticfiles import finders

from flosse_bus import bus
from tests.drf import views

pytestmark = pytest.mark.django_db(transaction=True)


def script(response):
    """Return the URL that the page's script is to follow, or ``None``."""
    found = re.search(
        r'<script src="/static/flosse_bus/drf/live\.js" data-url="([^"]*)"',
        response.content.decode(),
    )
    return found and found[1].replace("&amp;", "&")


@pytest.mark.parametrize("path", ["counting/", "acounting/", "users/names/"])
def test_the_page_has_a_script_and_no_stream(get, path):
    response = get(f"/api/{path}", accept="text/html")
    assert (response.status_code, response.streaming) == (200, False)
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert script(response) == f"/api/{path}"
    assert "text/event-stream" in response.content.decode()
    assert "<form" in response.content.decode()  # the page's own GET and OPTIONS


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("counting/?format=api", "counting/"),
        ("counting/?a=1&format=api&a=2", "counting/?a=1&a=2"),
        ("counting.api", "counting.sse"),
        ("counting.api?a=%22%3E", "counting.sse?a=%22%3E"),
    ],
)
def test_the_script_follows_what_is_no_page(get, path, url):
    response = get(f"/api/{path}", accept="text/html")
    assert script(response) == f"/api/{url}"
    assert get(script(response)).streaming


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("members/", "get", 401),
        ("throttled/", "get", 429),
        ("checked/missing/", "get", 404),
        ("users/7/events/", "get", 401),
        ("counting/", "options", 200),
        ("counting/", "post", 405),
    ],
)
def test_other_pages_have_no_script(get, path, method, status):
    response = get(f"/api/{path}", method=method, accept="text/html")
    assert response.status_code == status
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert script(response) is None
    assert "application/json" in response.content.decode()


def test_what_was_to_be_streamed_is_closed(get, monkeypatch):
    file = StringIO("a line")
    monkeypatch.setattr(views.Checked, "opened", lambda view: file)
    assert script(get("/api/checked/file/", accept="text/html")) == "/api/checked/file/"
    assert file.closed


def test_the_page_of_a_bus_stream_opens_none(get, headers):
    response = get("/api/rooms/5/", accept="text/html", **headers("token"))
    assert script(response) == "/api/rooms/5/"
    assert len(bus.streams) == 0


def test_a_page_of_what_does_not_exist(get, headers):
    assert get("/api/users/9999/events/", accept="text/html", **headers("token")).status_code == 404


def test_the_script_is_found():
    assert finders.find("flosse_bus/drf/live.js")
