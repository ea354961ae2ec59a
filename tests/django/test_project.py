"""The example project itself."""

from __future__ import annotations

import json
import threading

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse

from flosse_bus import bus
from testproject.shop import traffic
from testproject.shop.models import Customer, Order

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def seeded():
    call_command("seed", verbosity=0)
    call_command("seed", verbosity=0)


def test_the_board_is_rendered_with_its_cursor(client, seeded):
    bus.publish("orders", 1)
    response = client.get(reverse("board"))
    assert response.context["live"]["cursor"] == bus.cursor()
    assert bus.cursor() in response.content.decode()
    data = client.get(reverse("board-data")).json()
    assert len(data["orders"]) == Order.objects.count() == 6


def test_ordering(client, seeded):
    customer = Customer.objects.first()
    form = {"customer": customer.pk, "item": "Grinder", "quantity": 2}
    assert client.post(reverse("place-order"), form).status_code == 302
    assert (
        client.post(reverse("place-order"), form, HTTP_ACCEPT="application/json").status_code == 204
    )
    assert client.post(reverse("place-order"), {"item": "?"}).status_code == 400
    assert [e.data["fields"]["total"] for e in bus.history("orders")] == ["259.00", "259.00"]


def test_a_customers_page_is_private(client, seeded):
    mine = Customer.objects.get(user__username="demo")
    other = Customer.objects.exclude(pk=mine.pk).first()
    page, data = reverse("customer", args=[mine.pk]), reverse("customer-data", args=[mine.pk])
    assert client.get(page).status_code == 302
    client.force_login(get_user_model().objects.create(username="stranger"))
    assert client.get(page).status_code == 403
    client.force_login(mine.user)
    assert client.get(page).status_code == 200
    assert {o["customer"] for o in client.get(data).json()["orders"]} <= {mine.pk}
    assert client.get(reverse("customer", args=[other.pk])).status_code == 200  # staff


def test_the_admin_publishes(client, seeded):
    client.login(username="demo", password="demo")
    order = Order.objects.first()
    form = {
        "customer": order.customer_id,
        "item": "cup",
        "quantity": 1,
        "status": "sent",
        "total": "1",
    }
    response = client.post(reverse("admin:shop_order_change", args=[order.pk]), form)
    assert response.status_code == 302
    updates = [e.data for e in bus.history("orders") if e.data["pk"] == order.pk]
    assert updates[-1]["fields"]["status"] == "sent"


def test_traffic(seeded, capsys):
    call_command("traffic", rate=1e6, count=200, seed=1)
    assert "200 changes made" in capsys.readouterr().out
    actions = {e.data["action"] for e in bus.history("orders")}
    assert actions == {"created", "updated", "deleted"}
    assert Order.objects.count() <= traffic.KEPT + 1


def test_traffic_stops_when_told(seeded):
    stop = threading.Event()
    stop.set()
    assert traffic.run(rate=1, stop=stop) == 0


@pytest.mark.parametrize(("rate", "message"), [(0, "--rate"), (1, "manage.py seed")])
def test_traffic_that_cannot_be(rate, message):
    with pytest.raises(CommandError, match=message):
        call_command("traffic", rate=rate, count=1)


def test_the_boards_data_are_json(client, seeded):
    assert json.loads(client.get(reverse("board-data")).content)["topic"] == "orders"
