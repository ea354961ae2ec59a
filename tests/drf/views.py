"""Views of REST framework that stream."""

from __future__ import annotations

import asyncio
import time
from io import StringIO

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import (
    BasicAuthentication,
    SessionAuthentication,
    TokenAuthentication,
)
from rest_framework.exceptions import NotFound
from rest_framework.permissions import (
    AllowAny,
    BasePermission,
    IsAuthenticated,
    IsAuthenticatedOrReadOnly,
)
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.throttling import BaseThrottle
from rest_framework.versioning import AcceptHeaderVersioning
from rest_framework.viewsets import ReadOnlyModelViewSet, ViewSet

from flosse_bus import bus
from flosse_bus.contrib.drf.actions import event_stream_action
from flosse_bus.contrib.drf.streams import EventStreamMixin
from flosse_bus.contrib.drf.topics import Topics
from flosse_bus.contrib.drf.views import EventStreamAPIView, SubscribeAPIView


def named_by_proxy(get_response):
    """Middleware that takes the user from a header."""

    def middleware(request):
        if name := request.headers.get("X-User"):
            request.user = User.objects.get(username=name)
        return get_response(request)

    return middleware


#: No challenge comes first for a session, so its refusals are 403.
ANY = [TokenAuthentication, BasicAuthentication, SessionAuthentication]


class Counting(EventStreamAPIView):
    """Count to three."""

    authentication_classes = ANY
    permission_classes = [AllowAny]
    retry = 1234

    def stream(self, request, format=None):
        yield ("who", str(request.user))
        for number in range(1, 4):
            yield {"data": {"number": number}, "id": str(number)}


class ACounting(EventStreamAPIView):
    """Count to three, asynchronously."""

    authentication_classes = ANY
    permission_classes = [AllowAny]
    retry = 1234

    async def astream(self, request, format=None):
        yield ("who", str(request.user))
        for number in range(1, 4):
            yield {"data": {"number": number}, "id": str(number)}


class Members(Counting):
    permission_classes = [IsAuthenticated]


class AMembers(ACounting):
    permission_classes = [IsAuthenticated]


class SessionMembers(Members):
    authentication_classes = [SessionAuthentication]


class Never(BaseThrottle):
    def allow_request(self, request, view):
        return False

    def wait(self):
        return 7


class Throttled(Counting):
    throttle_classes = [Never]


class Versioned(EventStreamAPIView):
    permission_classes = [AllowAny]
    versioning_class = AcceptHeaderVersioning

    def stream(self, request):
        yield str(request.version)


class Checked(EventStreamAPIView):
    """Checks first, and may answer otherwise."""

    opened = staticmethod(lambda: StringIO("a line"))

    permission_classes = [AllowAny]

    def stream(self, request, what):
        if what == "missing":
            raise NotFound("No such thing.")
        if what == "file":
            return self.opened()
        if what == "response":
            return Response({"not": "a stream"}, status=202)
        return iter([what])


class Answer(BasePermission):
    """What the test says."""

    answer = staticmethod(lambda request: True)

    def has_permission(self, request, view):
        return type(self).answer(request)


class Room(SubscribeAPIView):
    authentication_classes = ANY
    permission_classes = [IsAuthenticated, Answer]
    topics = ["rooms.{room}"]
    recheck_every = 0.05


class Lounge(Room):
    """Asks the session first, which trusts the user that it finds in Django's request."""

    authentication_classes = [SessionAuthentication, TokenAuthentication, BasicAuthentication]


class Own(SubscribeAPIView):
    """What concerns the one who asks."""

    authentication_classes = ANY
    permission_classes = [IsAuthenticated]

    def get_topics(self):
        return [f"users.{self.request.user.pk}"]


class Named(SubscribeAPIView):
    authentication_classes = ANY
    permission_classes = [IsAuthenticatedOrReadOnly]
    recheck_every = 0.05


class Audit(SubscribeAPIView):
    """Of another bus."""

    permission_classes = [AllowAny]
    bus = "audit"
    topics = ["logins", "payments"]


class AuditThrottled(Audit):
    throttle_classes = [Never]


class AuditViewSet(EventStreamMixin, ViewSet):
    permission_classes = [AllowAny]

    @event_stream_action(detail=False)
    def log(self, request):
        return Topics(["logins", "payments"], bus="audit")


class Ticking(EventStreamAPIView):
    """Yields for ever."""

    authentication_classes = ANY
    permission_classes = [IsAuthenticated, Answer]
    recheck_every = 0.05
    throttle_classes = []

    def stream(self, request):
        while True:
            yield "tick"
            time.sleep(0.01)


class ATicking(EventStreamAPIView):
    authentication_classes = ANY
    permission_classes = [Answer]
    recheck_every = 0.05

    async def astream(self, request):
        while True:
            yield "tick"
            await asyncio.sleep(0.01)


class UserSerializer(ModelSerializer):
    class Meta:
        model = User
        fields = ["id", "username"]


class UserViewSet(EventStreamMixin, ReadOnlyModelViewSet):
    queryset = get_user_model().objects.filter(is_active=True).order_by("pk")
    serializer_class = UserSerializer
    authentication_classes = ANY
    permission_classes = [IsAuthenticated]

    @event_stream_action(detail=True)
    def events(self, request, pk=None):
        """Stream what happens to one user."""
        self.get_object()
        return Topics(["users.{pk}"], recheck_every=0.05)

    @event_stream_action(detail=False, retry=99, permission_classes=[AllowAny], url_path="names")
    def names(self, request):
        """Stream everybody's name."""
        for user in self.filter_queryset(self.get_queryset()):
            yield user.username

    @event_stream_action(detail=True)
    async def anames(self, request, pk=None):
        yield f"{request.user} sees {pk}"

    @event_stream_action(detail=False, recheck_every=0.05)
    def ticks(self, request):
        while True:
            yield "tick"
            time.sleep(0.01)

    @event_stream_action(detail=False)
    def unsafe(self, request):
        return Topics([f"users.{request.query_params['user']}"])

    @extend_schema(description="Described otherwise.", responses={200: str})
    @event_stream_action(detail=False)
    def described(self, request):
        yield bus.cursor()
