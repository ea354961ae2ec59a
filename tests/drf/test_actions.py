"""Actions of viewsets that stream."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.permissions import AllowAny
from rest_framework.test import APIRequestFactory
from rest_framework.viewsets import ViewSet

from flosse_bus import bus
from flosse_bus.contrib.drf.actions import event_stream_action
from tests.drf.conftest import blocks_of, events

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_action_that_yields(get, user):
    response = get("/api/users/names/")
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    blocks = list(blocks_of(response.streaming_content))
    assert [(block.retry, block.data) for block in blocks] == [(99, "ann")]


def test_an_async_action(get, user, headers):
    response = get(f"/api/users/{user.pk}/anames/", **headers("token"))
    assert events(response) == [("message", f"ann sees {user.pk}")]


@pytest.mark.parametrize(
    ("how", "pk", "status"), [("nobody", "own", 401), ("token", "own", 200), ("token", "99", 404)]
)
def test_an_action_that_names_topics(get, user, headers, how, pk, status):
    pk = user.pk if pk == "own" else pk
    response = get(f"/api/users/{pk}/events/", **headers(how))
    assert response.status_code == status
    assert response["Content-Type"].startswith(
        "text/event-stream" if status == 200 else "application/json"
    )
    assert len(bus.streams) == (status == 200)


def test_the_rest_of_the_viewset_is_as_ever(get, user, headers):
    response = get("/api/users/", accept="application/json", **headers("token"))
    assert response.json() == [{"id": user.pk, "username": "ann"}]
    response = get(f"/api/users/{user.pk}/", accept="text/html", **headers("token"))
    assert response["Content-Type"].startswith("text/html")
    assert "live.js" not in response.content.decode()


@pytest.mark.parametrize(
    ("method", "status"), [("head", 200), ("options", 200), ("post", 405), ("delete", 405)]
)
def test_methods(get, method, status):
    response = get("/api/users/names/", method=method)
    assert (response.status_code, response.streaming) == (status, False)


@pytest.mark.parametrize("value", ["*", "**", "{pk}", "a b"])
def test_a_client_cannot_widen_a_name(get, headers, value):
    response = get(f"/api/users/unsafe/?user={value}", **headers("token"))
    assert response.status_code == 400
    assert "detail" in response.json()


@pytest.mark.parametrize("options", [{"retry": "soon"}, {"heartbeat": -1}])
def test_what_can_never_work_is_refused_at_once(options):
    with pytest.raises(ImproperlyConfigured, match="@event_stream_action on .*events"):

        @event_stream_action(detail=False, **options)
        def events(self, request):
            yield 1


def test_a_viewset_without_the_mixin():
    class Forgetful(ViewSet):
        permission_classes = [AllowAny]

        @event_stream_action(detail=False)
        def events(self, request):
            yield 1

    view = Forgetful.as_view({"get": "events"}, **Forgetful.events.kwargs)
    with pytest.raises(ImproperlyConfigured, match="Forgetful: .* put EventStreamMixin"):
        view(APIRequestFactory().get("/", HTTP_ACCEPT="text/event-stream"))
