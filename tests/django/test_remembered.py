"""What an authoriser sees when it is asked again, long after the request is over."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import Permission
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.urls import resolve
from django.utils.functional import SimpleLazyObject
from rest_framework.authtoken.models import Token

from flosse_bus import identity
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


class TestUsersOfMiddleware:
    """Who came by a token, a header or another user's session is read again all the same."""

    @pytest.fixture(params=["by itself", "lazy", "by a backend"])
    def kept(self, request, factory, user):
        opening = opened(factory)
        if request.param == "lazy":
            opening.user = SimpleLazyObject(lambda: opening and type(user).objects.get(pk=user.pk))
        else:
            opening.user = type(user).objects.get(pk=user.pk)
        if request.param == "by a backend":
            opening.user.backend = "django.contrib.auth.backends.ModelBackend"
        assert opening.user.has_perm("shop.nothing") is False  # which is remembered there
        return remember(opening)

    def test_it_is_who_it_was(self, kept, user, django_assert_num_queries):
        with django_assert_num_queries(1):
            renewed = again(kept).user
            assert renewed.username == "ann"
        assert renewed == user

    def test_what_has_changed_is_seen(self, kept, user):
        user.is_staff = True
        user.save()
        user.user_permissions.add(Permission.objects.get(codename="view_order"))
        renewed = again(kept).user
        assert renewed.is_staff
        assert renewed.has_perm("shop.view_order")
        user.user_permissions.clear()
        assert not again(kept).user.has_perm("shop.view_order")

    @pytest.mark.parametrize("how", ["deactivated", "deleted"])
    def test_who_may_come_no_more_is_nobody(self, kept, user, how, run):
        if how == "deleted":
            user.delete()
        else:
            user.is_active = False
            user.save()
        assert not again(kept).user.is_authenticated

    def test_async_code_sees_the_same(self, kept, user):
        user.delete()
        renewed = again(kept)
        assert not async_to_sync(renewed.auser)().is_authenticated

    def test_an_inactive_user_whom_middleware_lets_in_stays(self, factory, user):
        user.is_active = False
        user.save()
        request = opened(factory)
        request.user = user
        assert again(remember(request)).user == user

    def test_a_user_of_no_database_stays_as_it_is(self, factory):
        request = opened(factory)
        request.user = SimpleNamespace(is_authenticated=True, pk=None)
        assert identity._bare(again(remember(request)).user) is request.user
        request.user = get_user_model()(username="eve")
        assert identity._bare(again(remember(request)).user) is request.user

    def test_in_the_session_of_another_who_logs_out(self, factory, user):
        """As one who looks at the site with somebody else's eyes."""
        admin = get_user_model().objects.create_user("admin")
        request = opened(factory, login=admin)
        request.user = user
        kept = remember(request)
        assert again(kept).user == user
        request.session.flush()
        assert not again(kept).user.is_authenticated


class SecondFactor:
    """What django-otp's middleware does with a user, who is mostly lazy."""

    @staticmethod
    def is_verified(user):
        return user.otp_device is not None

    def __init__(self, device):
        self.device = device

    def process(self, request):
        request.user = SimpleLazyObject(functools.partial(self.verify, request, request.user))

    def verify(self, request, user):
        user.otp_device = self.device
        user.is_verified = functools.partial(self.is_verified, user)
        user.asks = types.MethodType(lambda user: user.username, user)
        return user


@pytest.mark.parametrize("way", ["session", "token"])
class TestWhatMiddlewareAdds:
    """To a user, and takes for granted afterwards."""

    @pytest.fixture
    def device(self, user):
        return Token.objects.create(user=user)

    @pytest.fixture
    def opening(self, way, factory, user, device):
        request = opened(factory, login=user if way == "session" else None)
        if way == "token":
            request.user = user
        SecondFactor(device).process(request)
        assert request.user.is_verified()
        return request

    def test_it_is_there_when_one_is_asked_again(self, opening, user):
        kept = remember(opening)
        user.username = "anna"
        user.save()
        renewed = again(kept).user
        assert renewed.is_verified()
        assert renewed.otp_device == opening.user.otp_device
        assert renewed.asks() == "anna"  # of the user as it is now

    def test_it_is_read_again_too(self, opening, device):
        kept = remember(opening)
        device.delete()
        assert not again(kept).user.is_verified()

    def test_caches_are_not_taken_for_it(self, opening, user):
        opening.user.get_all_permissions()
        kept = remember(opening)
        user.user_permissions.add(Permission.objects.get(codename="view_order"))
        assert again(kept).user.has_perm("shop.view_order")

    def test_it_is_nothing_to_who_may_come_no_more(self, opening, user):
        kept = remember(opening)
        user.is_active = False
        user.save()
        renewed = again(kept).user
        assert not renewed.is_authenticated
        assert not hasattr(renewed, "is_verified")


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


@pytest.mark.parametrize("how", ["nobody", "token", "second factor"])
def test_under_asgi_neither_request_nor_user_is_kept(user, how):
    request = opened(FACTORIES[0], login=user if how == "second factor" else None)
    if how == "token":
        request.user = get_user_model().objects.get()
    elif how == "second factor":
        SecondFactor(None).process(request)
    kept, gone = remember(request), weakref.ref(request)
    who = weakref.ref(identity._bare(request.user))
    del request
    gc.collect()
    assert (gone(), who()) == (None, None)
    assert again(kept).user.is_authenticated is (how != "nobody")
