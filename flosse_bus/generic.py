"""``SSEView``: a class-based view that streams what a method yields."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views import View

from .access import ask_permissions
from .decorators import check_class, stream
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
        refusal = ask_permissions(request, self.get_permissions())
        if refusal is not None:
            return refuse(refusal)
        method = self.stream if hasattr(self, "stream") else self.astream
        return stream(
            request,
            method(request, *args, **kwargs),
            retry=self.retry,
            heartbeat=self.heartbeat,
            label=f"{type(self).__module__}.{type(self).__qualname__}",
        )
