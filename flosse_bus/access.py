"""Who may read what: permission classes, public topics and authorisers. Deny by default."""

from __future__ import annotations

import inspect
import logging
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest

from .conf import BusConfig
from .exceptions import SSEPermissionDenied
from .permissions import BaseSSEPermission
from .remembered import Remembered, again, remember
from .topics import authorisers, covered

logger = logging.getLogger("flosse_bus")

_VETO = "raised PermissionDenied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A no, for the client (``detail``) and for the developer (``hint``, shown in DEBUG only)."""

    status: int
    detail: str
    topics: tuple[str, ...] = ()
    hint: str | None = None


class Rechecked(ABC):
    """One request's permission to read a stream, asked for again and again while that lives."""

    __slots__ = ("_checked", "_due", "_kept", "_recheck_every", "always")

    def __init__(self, recheck_every: float) -> None:
        self._kept: Remembered | None = None
        self._recheck_every = recheck_every
        self._checked = time.monotonic()
        # Streams that were opened together must not all be asked about together.
        self._due = self._checked + recheck_every * random.uniform(0.2, 0.95)
        #: Is this for everyone, so that there is nothing to ask again?
        self.always = False

    @property
    def due(self) -> bool:
        """Is it time to ask again, while the stream goes on?"""
        return not self.always and time.monotonic() >= self._due

    @property
    def overdue(self) -> bool:
        """May nothing be sent before having asked again?"""
        return not self.always and time.monotonic() - self._checked >= self._recheck_every

    def recheck(self) -> Refusal | None:
        """Ask again, for the session and user as they are now. Sync code: it may use the ORM."""
        begun = time.monotonic()
        refusal = None if self._kept is None else self._check(again(self._kept))
        self._due = begun + self._recheck_every * random.uniform(0.75, 0.95)
        # The stream may go on meanwhile: nothing counts before it is known to be a yes.
        self._checked = begun if refusal is None else -math.inf
        return refusal

    @abstractmethod
    def _check(self, request: HttpRequest) -> Refusal | None:
        """Ask about a request as it would be now."""


class Access(Rechecked):
    """One request's permission to read some topics.

    ``trusted`` topics are the view's own: where it has permission classes, those alone decide.
    """

    __slots__ = ("_config", "_names", "_permission_classes", "_trusted")

    def __init__(
        self,
        config: BusConfig,
        names: tuple[str, ...],
        *,
        permission_classes: Sequence[type[BaseSSEPermission]] = (),
        trusted: bool = False,
        recheck_every: float | None = None,
    ) -> None:
        super().__init__(config.recheck_every if recheck_every is None else recheck_every)
        self._config = config
        self._names = names
        self._permission_classes = permission_classes
        self._trusted = trusted
        self.always = not permission_classes and all(
            covered(name, config.public_topics) for name in names
        )

    def check(self, request: HttpRequest) -> Refusal | None:
        """Ask. Sync code: it may use the ORM."""
        refusal = self._check(request)
        if refusal is None and not self.always:
            self._kept = remember(request)
        return refusal

    def _check(self, request: HttpRequest) -> Refusal | None:
        refusal = ask_permissions(request, [one() for one in self._permission_classes])
        if refusal is not None:
            return replace(refusal, topics=self._names)
        if self._trusted and self._permission_classes:
            return None
        refused = {}
        for name in self._names:
            if not covered(name, self._config.public_topics):
                reason = _ask_authorisers(request, name)
                if reason is not None:
                    refused[name] = reason
        if not refused:
            return None
        return Refusal(
            status=403,
            detail="You may not read these topics.",
            topics=tuple(refused),
            hint=" ".join(refused.values()),
        )


def check_recheck(where: str, recheck_every: float | None) -> None:
    """Raise :exc:`ImproperlyConfigured` if these can never be seconds between two checks."""
    if recheck_every is not None and (
        isinstance(recheck_every, bool)
        or not isinstance(recheck_every, (int, float))
        or not 0 <= recheck_every < math.inf
    ):
        raise ImproperlyConfigured(
            f"{where}: recheck_every: expected a number of seconds or None, not {recheck_every!r}."
        )


def ask_permissions(
    request: HttpRequest, permissions: Iterable[BaseSSEPermission]
) -> Refusal | None:
    """Ask from left to right; the first that does not allow it ends it. Sync code."""
    for permission in permissions:
        label = f"{type(permission).__qualname__}.has_permission()"
        answer = _ask(label, permission.has_permission, request)
        if answer is not True:
            return Refusal(
                status=403, detail="You may not read this stream.", hint=f"{label} {answer}."
            )
    return None


def _ask_authorisers(request: HttpRequest, name: str) -> str | None:
    """Return why nobody lets the request read a topic, or ``None`` if somebody does."""
    said_no = []
    for authoriser, kwargs in authorisers.matching(name):
        answer = _ask(authoriser.label, authoriser.function, request, **kwargs)
        if answer is True:
            return None
        said_no.append(f"{authoriser.label} ({authoriser.template!r}) {answer} for {name!r}.")
        if answer is _VETO:
            break
    return " ".join(said_no) or _how_to(name)


def _how_to(name: str) -> str:
    return (
        f"No authoriser covers {name!r}. Add it to PUBLIC_TOPICS, or in a topics.py of an "
        f"installed app: from flosse_bus import topic; @topic({name!r}) def can_read(request): "
        "return request.user.is_authenticated"
    )


def _ask(
    label: str, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> str | Literal[True]:
    """Return ``True``, or in words what came instead of a yes."""
    try:
        answer = function(*args, **kwargs)
        if inspect.isawaitable(answer):
            answer = async_to_sync(_wait_for)(answer)
        return True if answer else "said no"
    except (PermissionDenied, SSEPermissionDenied):
        return _VETO
    except Exception as error:
        # Fail closed, and only for the one who asked.
        logger.exception("%s failed: access refused", label)
        return f"raised {type(error).__name__} (the log of 'flosse_bus' has the traceback)"


async def _wait_for(answer: Awaitable[Any]) -> Any:
    return await answer
