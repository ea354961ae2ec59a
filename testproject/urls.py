from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path

from flosse_bus.permissions import IsAuthenticated
from flosse_bus.views import SubscribeView

from .shop import views

urlpatterns = [
    path("", views.board, name="board"),
    path("board.json", views.board_data, name="board-data"),
    path("orders/place/", views.place_order, name="place-order"),
    path("customers/<int:customer_id>/", views.customer, name="customer"),
    path("customers/<int:customer_id>/data.json", views.customer_data, name="customer-data"),
    # A stream with topics of its own, beside the general one below.
    path(
        "staff-news/",
        SubscribeView.as_view(topics=["staff.news"], permission_classes=[IsAuthenticated]),
        name="staff-news",
    ),
    path("events/", include("flosse_bus.urls")),
    path("login/", auth_views.LoginView.as_view(), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]
