"""Who a request's user is, and reading that again when the request is long over.

A user who came by a session is read by it. One whom middleware has found otherwise, by a token or
a header, is read by the primary key. What middleware has hung on to either comes along: to a
second factor it makes a difference whether ``is_verified()`` is there.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user, load_backend
from django.db.models import Model
from django.db.models.query_utils import DeferredAttribute
from django.http import HttpRequest
from django.utils.functional import LazyObject, SimpleLazyObject, empty


class Identity:
    """That of one request, in as little memory as it takes: the user itself is not kept."""

    __slots__ = ("_added", "_row", "_session")

    def __init__(self, row: Row | object | None, session: bool, added: dict[str, Any]) -> None:
        #: How to read the user; or the user, who can be read nowhere; or ``None``: by the session.
        self._row = row
        #: Does somebody's session stand behind it, who is logged in?
        self._session = session
        self._added = added or None

    def give(self, request: HttpRequest) -> None:
        """Give a request the user, who is read when somebody looks. Its session is read anew."""
        user = SimpleLazyObject(functools.partial(self._read, request))
        request.user = cast(Any, user)

        async def auser() -> Any:
            await sync_to_async(bool)(user)
            return user

        request.auser = auser

    def _read(self, request: HttpRequest) -> Any:
        """Return the user. Sync code: it may use the ORM."""
        row = self._row
        if self._session:
            by_session: Any = get_user(request)
            if row is None:
                return self._complete(by_session)
            if not by_session.is_authenticated:  # whose session it was has logged out
                return _anonymous()
        if not isinstance(row, Row):
            return _anonymous() if row is None else row
        user = row.user()
        return _anonymous() if user is None else self._complete(user)

    def _complete(self, user: Any) -> Any:
        """Hang on to it what middleware has added, as far as it has not come by itself."""
        if self._added and user.is_authenticated:
            own = vars(user)
            for name, value in self._added.items():
                if name not in own:
                    own[name] = value.again(user) if isinstance(value, _Later) else value
        return user


#: Whoever came by a session, with nothing added; and nobody.
_BY_SESSION = Identity(None, True, {})
_NOBODY = Identity(None, False, {})


def identify(request: HttpRequest) -> Identity | None:
    """Return what it takes to read the user of a request again. Sync code: it may use the ORM."""
    user = _bare(getattr(request, "user", None))
    if user is None:
        return None
    session = getattr(request, "session", None)
    of_session = None
    if session is not None and session.session_key is not None:
        of_session = session.get("_auth_user_id")
    if type(user) is type(_anonymous()):
        return _NOBODY
    if not isinstance(user, Model):
        return Identity(user, of_session is not None, {})
    added = _added_to(user)
    if of_session is not None and of_session == str(user.pk):
        return Identity(None, True, added) if added else _BY_SESSION
    return Identity(Row.of(user) or user, of_session is not None, added)


def who(request: HttpRequest) -> tuple[bool, object, bool]:
    """Return who asks: logged in or not, the primary key, and whether there is a session.

    It reads session and user, if that has not been done. Sync code: it may use the ORM.
    """
    user = getattr(request, "user", None)
    known = user is not None and bool(user.is_authenticated)
    session = getattr(request, "session", None)
    if session is not None and session.session_key is not None:
        session.get("_auth_user_id")  # one that is not there has no key afterwards
    there = session is not None and session.session_key is not None
    return known, getattr(user, "pk", None) if known else None, there


#: What :func:`who` says of somebody of whom nothing is known.
NOBODY = (False, None, False)
_DJANGOS = "django.contrib.auth.middleware"


def is_plainly_nobody(request: HttpRequest) -> bool:
    """Can it be seen without reading anything that there is neither user nor session?"""
    session = getattr(request, "session", None)
    if session is not None and session.session_key is not None:
        return False
    user: Any = vars(request).get("user")
    if isinstance(user, LazyObject):
        if user._wrapped is empty:  # Django's own reads the session, of which there is none
            return getattr(vars(user).get("_setupfunc"), "__module__", None) == _DJANGOS
        user = user._wrapped
    return user is None or type(user) is type(_anonymous())


def _bare(user: Any) -> Any:
    """Return what is within a lazy user."""
    while isinstance(user, LazyObject):
        if user._wrapped is empty:
            user._setup()
        user = user._wrapped
    return user


def _anonymous() -> Any:
    from django.contrib.auth.models import AnonymousUser  # which needs the apps to be loaded

    return AnonymousUser()


class Row:
    """Where to read an object of a model again."""

    __slots__ = ("_active", "_backend", "_class", "_pk", "_using")

    def __init__(self, instance: Model) -> None:
        self._class = type(instance)
        self._pk = instance.pk
        self._using = instance._state.db
        self._backend: str | None = vars(instance).get("backend")
        self._active = getattr(instance, "is_active", None)

    @classmethod
    def of(cls, instance: Model) -> Row | None:
        """Return that of an object, or ``None`` if it is in no database."""
        return None if instance.pk is None or instance._state.adding else cls(instance)

    def instance(self) -> Any:
        """Return it as it is now, or ``None`` if it is there no more."""
        return self._class._default_manager.using(self._using).filter(pk=self._pk).first()

    def user(self) -> Any:
        """Return the user as it is now, or ``None`` if it is no longer one who may come."""
        if self._backend is not None:
            # It has come by one of AUTHENTICATION_BACKENDS, which knows whom it lets in.
            user: Any = load_backend(self._backend).get_user(self._pk)
            if user is not None:
                user.backend = self._backend
        else:
            user = self.instance()
        if user is None or (self._active and not user.is_active):
            return None
        return user


class _Later:
    """Something added to a user that is to be had again for that user, as it is then."""

    __slots__ = ("_value",)

    def __init__(self, value: Row | functools.partial[Any] | types.MethodType) -> None:
        self._value = value

    def again(self, user: Any) -> Any:
        value = self._value
        if isinstance(value, Row):
            return value.instance()
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, user)
        args = [user if one is _USER else one for one in value.args]
        keywords = {k: user if one is _USER else one for k, one in value.keywords.items()}
        return functools.partial(value.func, *args, **keywords)


#: Stands for the user, who is not kept.
_USER = object()


def _added_to(user: Model) -> dict[str, Any]:
    """Return what somebody has set on a user beside its fields and caches, ready to be kept."""
    fields = {field.attname for field in type(user)._meta.concrete_fields}
    return {
        name: _kept(value, user)
        for name, value in vars(user).items()
        if not name.startswith("_")
        and name != "backend"
        and name not in fields
        and not _is_cached(type(user), name)
    }


def _is_cached(cls: type, name: str) -> bool:
    """Does an attribute come from the class, which works it out when it is looked at?"""
    found = inspect.getattr_static(cls, name, None)
    if isinstance(found, DeferredAttribute):
        return True
    return hasattr(type(found), "__get__") and not inspect.isroutine(found)


def _kept(value: Any, user: Model) -> Any:
    def is_user(one: Any) -> bool:
        while isinstance(one, LazyObject):  # mostly what AuthenticationMiddleware has made
            one = one._wrapped
        return one is user

    if isinstance(value, Model):
        row = Row.of(value)
        return value if row is None else _Later(row)
    if isinstance(value, types.MethodType) and is_user(value.__self__):
        return _Later(types.MethodType(value.__func__, _USER))
    if isinstance(value, functools.partial):
        given: list[Any] = [*value.args, *value.keywords.values()]
        if any(is_user(one) for one in given):
            args = [_USER if is_user(one) else one for one in value.args]
            keywords = {k: _USER if is_user(v) else v for k, v in value.keywords.items()}
            return _Later(functools.partial(value.func, *args, **keywords))
    return value
