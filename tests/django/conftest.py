from __future__ import annotations

import contextlib
import gc

import pytest
from django.db import connections
from django.test import AsyncClient, Client
from django.urls import include, path

from flosse_bus import publish_changes, suppress_changes
from flosse_bus.changes import unpublish_changes
from flosse_bus.events import STATE
from flosse_bus.transport import opened, slots
from flosse_bus.wire import Decoder
from testproject.shop.models import Customer, Order
from tests.asgi import site
from tests.lab.urls import Ask
from tests.processes import wait_until


class Stream:
    """What a test client's streaming response has sent so far, block by block."""

    def __init__(self, response):
        self.response = response
        self._chunks = iter(response.streaming_content)
        self._decoder = Decoder()
        self._blocks = []
        self.raw = b""

    def __iter__(self):
        return self

    def __next__(self):
        while not self._blocks:
            chunk = next(self._chunks)
            self.raw += chunk
            self._blocks = list(self._decoder.feed(chunk))
        return self._blocks.pop(0)

    def until(self, wanted):
        """Return the first block that fits."""
        return next(block for block in self if wanted(block))

    def event(self):
        """Return the next event, of a topic or of the stream, that is not about its state."""
        return self.until(lambda block: block.event not in STATE)


@pytest.fixture
def subscribe(client: Client):
    """Open streams as a WSGI server would; each is closed at the end."""
    with contextlib.ExitStack() as stack:

        def subscribe(query="", path="/events/", *, client=client, **extra):
            response = client.get(f"{path}?{query}" if query else path, **extra)
            stack.callback(response.close)
            assert response.status_code == 200, response.content
            return Stream(response)

        yield subscribe


@pytest.fixture
def aclient():
    return AsyncClient()


@pytest.fixture
def publish():
    """Register models for one test."""
    registered = []

    def publish(model, **kwargs):
        registered.append(model)
        publish_changes(model, **kwargs)

    yield publish
    for model in registered:
        unpublish_changes(model)


@pytest.fixture
def customers():
    with suppress_changes():
        return [Customer.objects.create(name=name) for name in "ab"]


@pytest.fixture
def order(customers):
    with suppress_changes():
        return Order.objects.create(customer=customers[0], item="cup", total="5.00")


class Urls:
    """A URL configuration of one test's own."""

    def __init__(self, *patterns):
        self.urlpatterns = [*patterns, path("events/", include("flosse_bus.urls"))]


@pytest.fixture
def at(settings):
    """Put a view at /s/."""

    def at(view):
        settings.ROOT_URLCONF = Urls(path("s/", view), path("s/<int:pk>/", view))
        return view

    yield at
    if opened.count() or slots.taken():
        gc.collect()  # which takes long
    wait_until(lambda: (opened.count(), slots.taken()) == (0, 0), "every stream to be closed")


@pytest.fixture
def ask(settings, monkeypatch):
    """Let a test decide who may read those views."""
    settings.ROOT_URLCONF = "tests.lab.urls"

    def ask(answer):
        monkeypatch.setattr(Ask, "answer", staticmethod(answer))

    return ask


@pytest.fixture
def file_database(tmp_path, django_db_blocker):
    """A database whose connections can be closed, unlike that of the suite."""
    connections.settings["file"] = {
        **connections["default"].settings_dict,
        "NAME": str(tmp_path / "db.sqlite3"),
        "CONN_MAX_AGE": None,
        "OPTIONS": {},
    }
    with django_db_blocker.unblock():
        yield connections.settings["file"]
        if hasattr(connections._connections, "file"):
            connections["file"].close()
            del connections["file"]
    del connections.settings["file"]


@pytest.fixture
def told():
    """What a generator has told the test."""
    return []


@pytest.fixture
def streaming(at):
    """Ask for a view that begins with "one", and go on when that has come."""

    @contextlib.asynccontextmanager
    async def streaming(view):
        at(view)
        async with site() as here:
            stream = here.ask("/s/")
            await stream.got("one")
            yield here, stream

    return streaming
