"""``SubscribeView``: authorise, take a place, return the stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views import View

from .access import Access, Refusal, check_recheck
from .bus import Bus, buses
from .conf import DEFAULT_ALIAS
from .details import accepts_only_streams, resume_position
from .exceptions import BackendUnavailable, InvalidTopic
from .limits import Place, client_of
from .permissions import BaseSSEPermission, check_classes
from .refusals import UNREACHABLE, answer
from .responses import EventStreamResponse
from .topics import check_subscription, compile_template, fill
from .transport.stream import Stream
from .wire import CONTENT_TYPE


class SubscribeView(View):
    """Stream the topics that ``?topic=`` names, or the view's own.

    ``as_view(topics=[...])`` fixes the topics; ``{name}`` in them is filled from the URL. Every
    topic must be public or authorised, except that the view's own topics are governed by its
    ``permission_classes`` alone where it has any.

    Answers 400 to a bad topic, 403 to one that may not be read, 429 over a limit, 503 while the
    backend is down; each with JSON ``{"detail", "topics"}``. A client that accepts nothing but
    event streams gets the last two as a stream of one ``stream-error``, and comes back.
    """

    http_method_names = ["get", "head", "options"]  # because View has it so

    #: Alias in ``FLOSSE_BUS``.
    bus: str = DEFAULT_ALIAS
    topics: Sequence[str] | None = None
    permission_classes: Sequence[type[BaseSSEPermission]] = ()
    #: Seconds after which an open stream's permission is checked again. ``None``: RECHECK_EVERY.
    recheck_every: float | None = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:
        """Return the view function.

        Raises:
            ImproperlyConfigured: an option that can never work.
        """
        check_recheck(cls.__name__, initkwargs.get("recheck_every", cls.recheck_every))
        check_topics(cls.__name__, initkwargs.get("topics", cls.topics))
        check_classes(cls.__name__, initkwargs.get("permission_classes", cls.permission_classes))
        view: Any = super().as_view(**initkwargs)
        # For BusMiddleware, which answers for CORS: all that this view says is a stream or the
        # refusal of one, by the ALLOWED_ORIGINS of this bus (where absent: the default's).
        # Decorators that use functools.wraps() keep both.
        view.is_event_stream = True
        view.event_stream_bus = initkwargs.get("bus", cls.bus)
        return cast("Callable[..., HttpResponseBase]", view)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        bus = buses[self.bus]
        try:
            names = self.get_topics()
        except InvalidTopic as error:
            return self.refuse(Refusal(status=400, detail=str(error), topics=self._named()))
        if len(names) > bus.config.max_topics:
            most = bus.config.max_topics
            detail = f"{len(names)} topics in one stream; MAX_TOPICS allows {most}."
            return self._turn_away(429, names, detail)
        client = client_of(request) if bus.streams.counts_clients else None
        place = bus.streams.take(client, _session_key(request))
        if not isinstance(place, Place):
            return self._turn_away(429, names, f"Too many open streams: {place} is reached.")
        try:
            response = self._open(request, bus, names, place)
        except BaseException:
            place.release()
            raise
        if not isinstance(response, EventStreamResponse):
            place.release()
        return response

    def get_topics(self) -> tuple[str, ...]:
        """Return the topics and patterns of this request, each once.

        Raises:
            InvalidTopic: one breaks the rules, there is none, or the client may not name any.
        """
        if self.topics is None:
            names = self._named()
            if not names:
                raise InvalidTopic("Name at least one topic: ?topic=orders&topic=news")
        else:
            if self._named():
                raise InvalidTopic("This stream has topics of its own: leave out ?topic=")
            names = tuple(fill(topic, self.kwargs) for topic in self.topics)
        return tuple(dict.fromkeys(check_subscription(name) for name in names))

    def get_access(self, names: tuple[str, ...]) -> Access:
        """Return who is asked whether these may be read, now and while the stream is open."""
        return Access(
            buses[self.bus].config,
            names,
            permission_classes=self.permission_classes,
            trusted=self.topics is not None,
            recheck_every=self.recheck_every,
        )

    def refuse(self, refusal: Refusal) -> HttpResponseBase:
        """Answer with a refusal."""
        return answer(self.request, refusal, buses[self.bus].config)

    def _turn_away(self, status: int, names: tuple[str, ...], why: object) -> HttpResponseBase:
        """Note and answer a refusal that may be over when the client comes back."""
        buses[self.bus].hubs.notices.refused(names, why)
        detail = UNREACHABLE if status == 503 else str(why)
        return self.refuse(Refusal(status=status, detail=detail, topics=names))

    def _open(
        self, request: HttpRequest, bus: Bus, names: tuple[str, ...], place: Place
    ) -> HttpResponseBase:
        access = self.get_access(names)
        refusal = access.check(request)
        if refusal is not None:
            return self.refuse(refusal)
        try:
            bus.pulse.check()
        except BackendUnavailable as error:
            return self._turn_away(503, names, error)
        if request.method == "HEAD":
            # UpdateCacheMiddleware would keep it: it is no stream, and minds only "private".
            return HttpResponse(content_type=CONTENT_TYPE, headers={"Cache-Control": "private"})
        is_async = isinstance(request, ASGIRequest)
        stream = Stream(
            bus=bus,
            names=names,
            after=resume_position(request.META, request.GET),
            envelope=request.GET.get("envelope") == "1",
            place=place,
            access=access,
            only_streams=accepts_only_streams(request.META),
            environ={} if is_async else request.META,
        )
        return EventStreamResponse(stream, is_async=is_async)

    def _named(self) -> tuple[str, ...]:
        return tuple(self.request.GET.getlist("topic"))


def check_topics(where: str, topics: Sequence[str] | None) -> None:
    """Raise :exc:`ImproperlyConfigured` unless these can be a view's own topics, or ``None``."""
    if topics is None:
        return
    if isinstance(topics, str) or not topics:
        raise ImproperlyConfigured(
            f"{where}: topics: expected a list of at least one, not {topics!r}."
        )
    for template in topics:
        try:
            compile_template(template)
        except InvalidTopic as error:
            raise ImproperlyConfigured(f"{where}: topics: {error}") from error


def _session_key(request: HttpRequest) -> str | None:
    session = getattr(request, "session", None)
    return session.session_key if session is not None else None
