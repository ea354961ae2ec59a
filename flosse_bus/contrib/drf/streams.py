"""``EventStreamMixin``: what views and viewsets need to answer with a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.exceptions import APIException, NotAcceptable, NotAuthenticated
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ...access import Access, Refusal
from ...bus import buses
from ...conf import DEFAULT_ALIAS
from ...decorators import no_thread, open_stream, seconds_between
from ...exceptions import InvalidTopic, TooManyStreams
from ...refusals import (
    TEMPORARY,
    is_told_in_stream,
    keep_from_admins,
    refuse_in_stream,
)
from ...views import SubscribeView
from .access import APIAccess, GeneratedAccess, Guard, Produce
from .exceptions import StreamRefused
from .renderers import EventStreamRenderer
from .schema import event_stream_schema
from .topics import Topics

if TYPE_CHECKING:
    _Base = APIView
else:
    _Base = object


class EventStreamMixin(_Base):
    """Goes in front of a viewset's other bases, so that its actions can stream."""

    if (_schema := event_stream_schema()) is not None:
        schema = _schema

    _came_with: dict[str, Any]

    @classmethod
    def as_view(cls, *args: Any, **initkwargs: Any) -> Any:
        view: Any = super().as_view(*args, **initkwargs)
        actions = getattr(view, "actions", {"get": "get"}).values()
        # For BusMiddleware, which answers for CORS.
        view.is_event_stream = all(
            getattr(getattr(cls, name, None), "is_event_stream", False) for name in actions
        )
        return view

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # Authentication will put its user there. Who is asked again later must find what
        # middleware has put there, or a token that was withdrawn would pass for a session.
        self._came_with = {
            name: value for name, value in vars(request).items() if name in ("user", "auser")
        }
        return super().initialize_request(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Any:
        response = super().handle_exception(exc)
        request = self.request._request
        # Throttles answer 429, too.
        if isinstance(exc, APIException) and is_told_in_stream(request, response.status_code):
            if isinstance(exc, StreamRefused):
                config = buses[exc.bus or self._refusing_bus()].config
                return refuse_in_stream(request, exc.refusal, config)
            bus = buses[self._refusing_bus()]
            refusal = Refusal(status=response.status_code, detail=str(exc.detail))
            # Nobody else says so: the answer's status is that of a stream.
            bus.hubs.notices.refused((type(self).__qualname__,), refusal.detail)
            wait = getattr(exc, "wait", None) or 0
            return refuse_in_stream(request, refusal, bus.config, wait=wait)
        if isinstance(exc, StreamRefused):
            response.headers["Cache-Control"] = "no-store"
            if response.status_code in TEMPORARY:
                keep_from_admins(response)
        return response

    def _refusing_bus(self) -> str:
        """Return the alias of the bus by whose settings a stream is refused, before there is one to
        ask."""
        return DEFAULT_ALIAS

    def event_stream(
        self,
        request: Request,
        produce: Produce,
        *,
        label: str,
        retry: int | None = None,
        heartbeat: float | None = None,
        recheck_every: float | None = None,
    ) -> HttpResponseBase:
        """Answer with what ``produce(view, request, ...)`` returns, or with a page that shows it.

        Raises:
            APIException: there is no stream to be had.
        """
        content = produce(self, request, *self.args, **self.kwargs)
        if isinstance(content, HttpResponseBase):
            return content
        # Set while the content was negotiated.
        renderer = request.accepted_renderer
        if not isinstance(renderer, EventStreamRenderer):
            getattr(content, "close", lambda: None)()
            if isinstance(renderer, BrowsableAPIRenderer):
                return Response()
            raise NotAcceptable(available_renderers=[EventStreamRenderer()])
        if isinstance(content, Topics):
            return self._subscribe(request, content, produce)
        try:
            return open_stream(
                request._request,
                content,
                retry=retry,
                heartbeat=heartbeat,
                label=label,
                access=GeneratedAccess(
                    request,
                    guard=Guard(self),
                    came_with=self._came_with,
                    recheck_every=seconds_between(recheck_every),
                ),
            )
        except TooManyStreams as error:
            raise StreamRefused(no_thread(error, label)) from error

    def _subscribe(self, request: Request, topics: Topics, produce: Produce) -> HttpResponseBase:
        try:
            names = topics.filled(self.kwargs)
        except InvalidTopic as error:
            raise StreamRefused(Refusal(status=400, detail=str(error))) from error
        view = _Subscription(
            bus=topics.bus,
            topics=names,
            recheck_every=topics.recheck_every,
            guard=Guard(self, produce, topics),
            came_with=self._came_with,
            refused=lambda refusal: self._refuse(request, refusal, topics.bus),
        )
        view.setup(request._request, *self.args, **self.kwargs)
        return view.get(request._request)

    def _refuse(self, request: Request, refusal: Refusal, bus: str) -> Exception:
        if (
            refusal.status == 403
            and request.authenticators
            and not request.successful_authenticator
        ):
            return NotAuthenticated()
        return StreamRefused(refusal, bus=bus)


class _Subscription(SubscribeView):
    """The view of bus streams, with REST framework's ways to ask and to refuse."""

    guard: Guard
    came_with: dict[str, Any]
    refused: Callable[[Refusal], Exception]

    def get_access(self, names: tuple[str, ...]) -> Access:
        return APIAccess(
            buses[self.bus].config,
            names,
            guard=self.guard,
            came_with=self.came_with,
            trusted=self.topics is not None,
            recheck_every=self.recheck_every,
        )

    def refuse(self, refusal: Refusal) -> HttpResponseBase:
        raise self.refused(refusal)
