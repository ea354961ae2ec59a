"""``EventStreamAPIView`` and ``SubscribeAPIView``: streams as views of REST framework."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from ...conf import DEFAULT_ALIAS
from ...decorators import check_class
from ...views import check_topics
from .renderers import RENDERERS
from .streams import EventStreamMixin
from .topics import Topics


class EventStreamAPIView(EventStreamMixin, APIView):
    """Define ``stream(request, ...)`` or ``async astream(request, ...)``, which yields.

    They take REST framework's request and what the URL pattern captures, and yield what
    :func:`to_sse` takes. ``stream()`` may also return a generator, a response, or
    :class:`Topics` of the bus; what it raises before that is answered as in any view. The options
    are those of ``@sse_stream``.
    """

    http_method_names = ["get", "head", "options"]  # because View has it so
    renderer_classes = RENDERERS

    retry: int | None = None
    heartbeat: float | None = None
    #: Seconds after which an open stream's permission is checked again. ``None``: RECHECK_EVERY.
    recheck_every: float | None = None

    stream: Callable[..., Iterable[Any] | Topics | HttpResponseBase]
    astream: Callable[..., AsyncIterable[Any]]

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view function.

        Raises:
            ImproperlyConfigured: options that can never work, or not one method that streams.
        """
        check_class(cls, initkwargs)
        return super().as_view(**initkwargs)

    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return self.event_stream(
            request,
            _produce,
            retry=self.retry,
            heartbeat=self.heartbeat,
            recheck_every=self.recheck_every,
            label=f"{type(self).__module__}.{type(self).__qualname__}",
        )

    get.is_event_stream = True  # type: ignore[attr-defined]  # because CORS and the schema ask


class SubscribeAPIView(EventStreamAPIView):
    """Stream the view's own topics, or those that ``?topic=`` names.

    ``{name}`` in ``topics`` is filled from the URL. They are governed by the view's permission
    classes alone. Without topics of its own, each that the client names must be public or
    authorised as well.
    """

    #: Alias in ``FLOSSE_BUS``.
    bus: str = DEFAULT_ALIAS
    topics: Sequence[str] | None = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view function.

        Raises:
            ImproperlyConfigured: an option that can never work.
        """
        check_topics(cls.__name__, initkwargs.get("topics", cls.topics))
        view = super().as_view(**initkwargs)
        view.event_stream_bus = initkwargs.get("bus", cls.bus)  # whose origins count for CORS
        return view

    def get_topics(self) -> Sequence[str] | None:
        """Return the topics and patterns of this request, or ``None`` if the client names them.

        Asked again while the stream is open, which ends if the answer has changed.
        """
        return self.topics

    def _refusing_bus(self) -> str:
        return self.bus

    def stream(self, request: Request, *args: Any, **kwargs: Any) -> Topics:
        return Topics(
            self.get_topics(), bus=self.bus, patterns=True, recheck_every=self.recheck_every
        )


def _produce(view: EventStreamAPIView, request: Request, *args: Any, **kwargs: Any) -> Any:
    method = view.stream if hasattr(view, "stream") else view.astream
    return method(request, *args, **kwargs)
