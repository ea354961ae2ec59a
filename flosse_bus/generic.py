"""``SSEView``: a class-based view that streams what a method yields."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views import View

from .access import Refusal, ask_permissions
from .asking import question_on, watch_over
from .decorators import check_class, is_watched, seconds_between, stream
from .permissions import BaseSSEPermission, check_classes
from .refusals import refuse


class SSEView(View):
    """Define ``stream(request, ...)`` or ``async astream(request, ...)``, which yields.

    They take what the URL pattern captures, and yield what :func:`to_sse` takes. The options are
    those of ``@sse_stream``. Mixins such as ``LoginRequiredMixin`` go in front, as ever.
    """

    http_method_names = ["get", "head", "options"]  # because View has it so

    retry: int | None = None
    heartbeat: float | None = None
    #: Seconds after which an open stream's permission is checked again. ``None``: RECHECK_EVERY.
    recheck_every: float | None = None
    permission_classes: Sequence[type[BaseSSEPermission]] = ()

    stream: Callable[..., Iterable[Any]]
    astream: Callable[..., AsyncIterable[Any]]

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view function.

        Raises:
            ImproperlyConfigured: options that can never work, or not one method that streams.
        """
        check_class(cls, initkwargs)
        check_classes(cls.__name__, initkwargs.get("permission_classes", cls.permission_classes))
        view = super().as_view(**initkwargs)
        view.is_event_stream = True  # type: ignore[attr-defined]  # because CORS asks
        return view

    def get_permissions(self) -> list[BaseSSEPermission]:
        """Return what must allow the stream, asked from left to right."""
        return [one() for one in self.permission_classes]

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        question = question_on(request)
        permissions = self.get_permissions()
        refusal = ask_permissions(request, permissions)
        if question is not None:
            return question.answer(refusal)
        if refusal is not None:
            return refuse(refusal)
        method = self.stream if hasattr(self, "stream") else self.astream
        content = method(request, *args, **kwargs)
        access = None
        if is_watched(request, content, asks=bool(permissions)):
            access = watch_over(
                request,
                partial(_ask_again, type(self), self._given(), args, kwargs),
                asks=bool(permissions),
                leads_here=lambda view: getattr(view, "view_class", None) is type(self),
                every=seconds_between(self.recheck_every),
            )
        return stream(
            request,
            content,
            retry=self.retry,
            heartbeat=self.heartbeat,
            label=f"{type(self).__module__}.{type(self).__qualname__}",
            access=access,
        )

    def _given(self) -> dict[str, Any]:
        """Return what ``as_view()`` was given."""
        return {name: value for name, value in vars(self).items() if hasattr(type(self), name)}


def _ask_again(
    view_class: type[SSEView],
    given: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: HttpRequest,
) -> Refusal | None:
    view = view_class(**given)
    view.setup(request, *args, **kwargs)
    return ask_permissions(request, view.get_permissions())
