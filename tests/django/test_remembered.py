"""What an authoriser sees when it is asked again, long after the request is over."""

from __future__ import annotations

import gc
import weakref

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.urls import resolve

from flosse_bus.remembered import again, remember

FACTORIES = [AsyncRequestFactory(), RequestFactory()]


@pytest.fixture(params=FACTORIES, ids=["asgi", "wsgi"])
def factory(request):
    return request.param


def opened(factory, path="/events/?topic=a&topic=b", *, login=None, **headers):
    """Return a request as a view has it."""
    request = factory.get(path, **headers)
    SessionMiddleware(lambda request: HttpResponse()).process_request(request)
    if login is not None:
        request.session["_auth_user_id"] = str(login.pk)
        request.session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
        request.session["_auth_user_hash"] = login.get_session_auth_hash()
        request.session.save()
    AuthenticationMiddleware(lambda request: HttpResponse()).process_request(request)
    request.resolver_match = resolve(request.path_info)
    return request


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ann", password="x")


def test_the_request_itself_is_the_same(factory, user):
    request = opened(factory, login=user, headers={"x-tenant": "north", "Cookie": "theme=dark"})
    request.META["REMOTE_ADDR"] = "203.0.113.9"  # as middleware behind a proxy does
    request.tenant = {"name": "north"}  # as middleware of a project does
    renewed = again(remember(request))
    for name in ("method", "path", "path_info", "tenant", "GET", "COOKIES"):
        assert getattr(renewed, name) == getattr(request, name), name
    assert renewed.META == request.META
    assert dict(renewed.headers) == dict(request.headers)
    assert renewed.build_absolute_uri() == request.build_absolute_uri()
    assert renewed.resolver_match.view_name == request.resolver_match.view_name
    assert renewed.user == user


def test_session_and_user_are_read_again(factory, user):
    request = opened(factory, login=user)
    request.session["plan"] = "free"
    request.session.save()
    kept = remember(request)
    session = type(request.session)(request.session.session_key)
    session["plan"] = "paid"
    session.save()
    user.first_name = "Anna"
    user.save()
    renewed = again(kept)
    assert renewed.session["plan"] == "paid"
    assert renewed.user.first_name == "Anna"
    session.flush()
    assert not again(kept).user.is_authenticated


def test_a_user_who_came_by_something_else_stays(factory, user):
    request = opened(factory)
    request.user = user  # as a token's middleware does
    assert again(remember(request)).user is user


def test_a_request_without_session_or_user(factory):
    request = factory.get("/events/?topic=a")
    renewed = again(remember(request))
    assert renewed.GET.getlist("topic") == ["a"]
    assert not hasattr(renewed, "user")


def test_urls_that_have_changed_meanwhile():
    request = FACTORIES[0].get("/nowhere/")
    assert again(remember(request)).resolver_match is None


def test_under_asgi_the_request_is_not_kept(user):
    request = opened(FACTORIES[0], login=user)
    assert request.user.is_authenticated
    kept, gone = remember(request), weakref.ref(request)
    del request
    gc.collect()
    assert gone() is None
    assert again(kept).user == user
