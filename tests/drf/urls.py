"""An API with streams, beside the example project."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.routers import SimpleRouter
from rest_framework.urlpatterns import format_suffix_patterns

from testproject.urls import urlpatterns as project
from tests.drf import views

router = SimpleRouter()
router.register("users", views.UserViewSet)
router.register("audits", views.AuditViewSet, basename="audits")

api = [
    *format_suffix_patterns(
        [
            path("counting/", views.Counting.as_view()),
            path("acounting/", views.ACounting.as_view()),
        ]
    ),
    path("members/", views.Members.as_view()),
    path("amembers/", views.AMembers.as_view()),
    path("session-members/", views.SessionMembers.as_view()),
    path("throttled/", views.Throttled.as_view()),
    path("versioned/", views.Versioned.as_view()),
    path("checked/<str:what>/", views.Checked.as_view()),
    path("rooms/<str:room>/", views.Room.as_view()),
    path("lounge/<str:room>/", views.Lounge.as_view()),
    path("ticking/", views.Ticking.as_view()),
    path("aticking/", views.ATicking.as_view()),
    path("own/", views.Own.as_view()),
    path("audit/", views.Audit.as_view()),
    path("audit-throttled/", views.AuditThrottled.as_view()),
    path("named/", views.Named.as_view()),
    path("", include(router.urls)),
]
urlpatterns = [*project, path("api/", include(api))]
