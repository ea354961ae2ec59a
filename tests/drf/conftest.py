from __future__ import annotations

import base64
import contextlib

import pytest
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from flosse_bus.events import STATE
from flosse_bus.wire import Decoder


@pytest.fixture(autouse=True)
def urls(settings, closing_connections):
    settings.ROOT_URLCONF = "tests.drf.urls"


@pytest.fixture
def user(db, django_user_model):
    return django_user_model.objects.create_user("ann", password="x")


@pytest.fixture
def token(user):
    return Token.objects.create(user=user)


@pytest.fixture
def headers(user, token):
    """Return the headers of a client who comes in one of these ways."""

    def headers(how):
        if how == "session":
            client = APIClient()
            client.force_login(user)
            return {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
        return {
            "nobody": {},
            "token": {"Authorization": f"Token {token.key}"},
            "bad token": {"Authorization": "Token 0123456789"},
            "proxy": {"X-User": "ann"},
            "basic": {"Authorization": f"Basic {base64.b64encode(b'ann:x').decode()}"},
            "bad basic": {"Authorization": f"Basic {base64.b64encode(b'ann:y').decode()}"},
        }[how]

    return headers


@pytest.fixture
def get():
    """Ask as a WSGI server would. Responses are closed at the end."""
    with contextlib.ExitStack() as stack:

        def get(path, *, method="get", accept="text/event-stream", **headers):
            if accept is not None:
                headers["Accept"] = accept
            extra = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in headers.items()}
            response = getattr(APIClient(), method)(path, **extra)
            stack.callback(response.close)
            return response

        yield get


def blocks_of(content):
    """Yield the blocks of a response's pieces."""
    decoder = Decoder()
    for piece in content:
        yield from decoder.feed(piece)


def events(response):
    """Return the events of a stream that ends."""
    blocks = blocks_of(response.streaming_content)
    return [(block.event, block.data) for block in blocks if block.event not in STATE]
