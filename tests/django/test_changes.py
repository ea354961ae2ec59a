"""publish_changes: every way in which a row changes, as the subscribers of its topics hear of it."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import pickle
import sqlite3
import threading
import uuid

import django
import pytest
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import IntegrityError, connections, transaction
from django.db.models import F
from django.db.models.signals import post_save

from flosse_bus import bus, publish_bulk, suppress_changes
from testproject.shop.models import Customer, Label, Order, UrgentOrder
from tests.changes import actions, heard
from tests.lab.models import Document, FoodTruck, Kind, Place, Restaurant, Stall, Tag, Tool

pytestmark = pytest.mark.django_db(transaction=True)


def test_created(customers):
    order = Order.objects.create(customer=customers[0], item="cup", total="5.00")
    for topic in ("orders", f"orders.{order.pk}", f"customers.{customers[0].pk}"):
        [event] = bus.history(topic)
        assert event.event == "shop.order.created"
        assert event.data == {
            "action": "created",
            "model": "shop.order",
            "pk": order.pk,
            "fields": {
                "customer": customers[0].pk,
                "item": "cup",
                "quantity": 1,
                "status": "new",
                "total": "5.00",
            },
        }


def test_updated_with_update_fields(order):
    order.status = Order.Status.PAID
    order.save(update_fields=["status"])
    [event] = bus.history("orders")
    assert event.event == "shop.order.updated"
    assert event.data["update_fields"] == ["status"]
    assert event.data["fields"]["status"] == "paid"


def test_deleted(order, customers):
    pk = order.pk
    order.delete()
    assert [(a, p) for a, p, _ in heard("orders")] == [("deleted", pk)]
    assert actions(f"customers.{customers[0].pk}") == ["deleted"]


def test_deleted_by_queryset_and_cascade(publish, order):
    Order.objects.filter(pk=order.pk).delete()
    assert actions("orders") == ["deleted"]


def test_a_null_foreign_key_has_no_topic():
    order = Order.objects.create(item="cup", total=1)
    assert actions("orders") == ["created"]
    assert bus.history("customers.None") == []
    order.delete()


def test_a_move_is_heard_in_both_topics(order, customers):
    order.customer = customers[1]
    order.save()
    for customer in customers:
        [(action, pk, fields)] = heard(f"customers.{customer.pk}")
        assert (action, pk, fields["customer"]) == ("updated", order.pk, customers[1].pk)
    assert actions("orders") == ["updated"]


def test_a_move_of_an_instance_that_was_never_loaded(order, customers):
    stranger = Order(pk=order.pk, customer=customers[1], item="x", total=1)
    stranger.placed_at = order.placed_at
    stranger.save()
    assert actions(f"customers.{customers[0].pk}") == ["updated"]
    assert actions(f"customers.{customers[1].pk}") == ["updated"]


def test_a_change_that_was_not_saved_moves_nothing(order, customers):
    order.customer = customers[1]
    order.status = "paid"
    order.save(update_fields=["status"])
    assert heard(f"customers.{customers[0].pk}")[0][2]["customer"] == customers[0].pk
    assert bus.history(f"customers.{customers[1].pk}") == []


def test_deletion_is_heard_where_the_row_was(order, customers):
    order.customer = customers[1]  # never saved
    order.delete()
    assert actions(f"customers.{customers[0].pk}") == ["deleted"]
    assert bus.history(f"customers.{customers[1].pk}") == []


def test_a_failed_save_leaves_nothing_behind(publish, order, customers):
    """What was remembered for a save that failed must not leak into the next one."""
    order.customer = customers[1]
    order.quantity = None
    with pytest.raises(IntegrityError), transaction.atomic():
        order.save()
    Order.objects.filter(pk=order.pk).update(customer=customers[1])
    order.refresh_from_db()
    order.status = "paid"
    order.save(update_fields=["status"])
    assert bus.history(f"customers.{customers[0].pk}") == []


def test_nested_saves_keep_their_moves_apart(order, customers):
    def save_again(sender, instance, update_fields, **kwargs):
        if update_fields is None:
            instance.save(update_fields=["item", "customer"])

    # Before ours: signals run in the order of connection, so connect ours again after it.
    receivers = post_save.receivers
    post_save.receivers = []
    post_save.connect(save_again, sender=Order, weak=False)
    post_save.receivers += receivers
    post_save.sender_receivers_cache.clear()
    try:
        order.customer = customers[1]
        order.save()
    finally:
        post_save.disconnect(save_again, sender=Order)
    assert "updated" in actions(f"customers.{customers[0].pk}")


def test_expressions_are_published_as_what_they_became(order):
    order.quantity = F("quantity") + 4
    order.save()
    assert heard("orders")[0][2]["quantity"] == 5


def test_deferred_fields_are_read_from_the_row(order):
    loaded = Order.objects.only("pk").get(pk=order.pk)
    loaded.save()
    loaded.delete()
    assert [fields["item"] for _, _, fields in heard("orders")] == ["cup", "cup"]


@pytest.mark.parametrize(
    ("field", "given", "sent"),
    [
        ("count", "5", 5),
        ("count", 5, 5),
        ("price", "9.9", "9.90"),
        ("price", decimal.Decimal("1.5"), "1.50"),
        ("price", 3, "3.00"),
        ("kind", Kind.FANCY, "fancy"),
        ("day", "2026-01-02", "2026-01-02"),
        ("day", datetime.date(2026, 1, 2), "2026-01-02"),
        (
            "at",
            datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
            "2026-01-02T01:00:00Z",
        ),
        ("ratio", "0.5", 0.5),
        ("ratio", 0.5, 0.5),
        ("flag", 1, True),
        ("flag", True, True),
        ("file", "a/b.txt", "a/b.txt"),
        ("address", "::FFFF:10.0.0.1", "::ffff:10.0.0.1"),
        ("place", None, None),
    ],
)
def test_values_are_as_the_database_has_them(publish, field, given, sent):
    publish(Document, topics=["documents"], fields=[field])
    Document.objects.create(**{field: given})
    [(_, _, fields)] = heard("documents")
    stored = getattr(Document.objects.get(), field)
    assert fields == {field: sent}
    assert sent is None or str(stored)


def test_keys_are_as_the_database_has_them(publish):
    publish(Document, topics=["documents.{pk}"])
    pk = uuid.uuid4()
    Document.objects.create(pk=pk.hex.upper())
    assert [pk for _, pk, _ in heard(f"documents.{pk}")] == [str(pk)]


@pytest.mark.skipif(django.VERSION < (5, 0), reason="generated fields came with Django 5.0")
def test_generated_fields(publish):
    from tests.lab.models import Square

    publish(Square, topics=["squares.{area}"], fields=["area"])
    square = Square.objects.create(side=2)
    square.side = 3
    square.save()
    assert heard("squares.9") == [("updated", square.pk, {"area": 9})]
    assert actions("squares.4") == ["created", "updated"]


def test_proxies_are_the_same_row(order):
    UrgentOrder.objects.get(pk=order.pk).save()
    UrgentOrder.objects.get(pk=order.pk).delete()
    assert actions("orders") == ["updated", "deleted"]


def test_children_are_rows_of_their_parents(publish):
    publish(Place, topics=["places.{owner}"], fields=["name"])
    publish(Restaurant, topics=["restaurants"], fields=["stars"])
    restaurant = Restaurant.objects.create(name="Ada", owner=7)
    restaurant.tags.add(Tag.objects.create(name="good"))
    restaurant.owner = 8  # never saved
    restaurant.delete()
    assert actions("places.7") == ["created", "updated", "deleted"]
    assert bus.history("places.8") == []
    assert actions("restaurants") == ["created", "updated", "deleted"]


def test_each_parent_is_told_of_its_own_row(publish):
    """A child of two models has a key in each table."""
    publish(Place, topics=["places.{pk}"], fields=["name"])
    publish(Tool, topics=["tools.{pk}"], fields=["use", "tool_tags"])
    other, tag = Place.objects.create(name="other"), Tag.objects.create()
    truck = FoodTruck.objects.create(name="Ada", use="frying")
    assert truck.place_ptr_id != truck.serial
    truck.tool_tags.add(tag)
    truck.use = "baking"
    truck.save()
    place, tool = truck.place_ptr_id, truck.serial
    truck.delete()
    assert heard(f"tools.{tool}") == [
        ("created", tool, {"use": "frying", "tool_tags": []}),
        ("updated", tool, {"use": "frying", "tool_tags": [tag.pk]}),
        ("updated", tool, {"use": "baking", "tool_tags": [tag.pk]}),
        ("deleted", tool, {"use": "baking", "tool_tags": [tag.pk]}),
    ]
    assert actions(f"places.{place}") == ["created", "updated", "updated", "deleted"]
    assert actions(f"places.{other.pk}") == ["created"]
    assert bus.history(f"tools.{place}") == []


def test_a_child_with_a_key_of_its_own(publish):
    publish(Place, topics=["places.{pk}"], fields=["name"])
    stall = Stall.objects.create(code="abc", name="Ada")
    stall.name = "Grace"
    stall.save()
    assert heard(f"places.{stall.id}") == [
        ("created", stall.id, {"name": "Ada"}),
        ("updated", stall.id, {"name": "Grace"}),
    ]


@pytest.mark.parametrize("template", ["at.{place}", "at.{place_id}"])
@pytest.mark.parametrize("update_fields", [None, ["place"], ["place_id"], "deferred"])
def test_a_move_is_found_by_either_name_of_the_foreign_key(publish, template, update_fields):
    publish(Document, topics=[template], actions=["updated"])
    places = [Place.objects.create(name=name) for name in "ab"]
    document = Document.objects.create(place=places[0])
    if update_fields == "deferred":  # Django then saves what is loaded, by column
        document, update_fields = Document.objects.defer("slug").get(), None
    document.place = places[1]
    document.save(update_fields=update_fields)
    assert [actions(f"at.{place.pk}") for place in places] == [["updated"], ["updated"]]


def test_a_saved_instance_is_pickled_as_before(order):
    before = len(pickle.dumps(order))
    order.save()
    assert len(pickle.dumps(order)) == pytest.approx(before, abs=40)


def test_fixtures_are_no_news(order, tmp_path):
    label = Label.objects.create(name="a")
    order.labels.set([label])
    bus.backend.flush()
    path = tmp_path / "orders.json"
    path.write_text(serializers.serialize("json", [*Order.objects.all(), *Label.objects.all()]))
    call_command("loaddata", str(path), verbosity=0)
    assert bus.history("orders") == []


def test_suppression(order):
    with suppress_changes():
        order.save()
        with suppress_changes(Customer):
            order.save()
    with suppress_changes(Customer):
        Customer.objects.create(name="x")
        order.save()
    assert actions("orders") == ["updated"]
    assert bus.history("customers") == []
    order.save()
    assert actions("orders") == ["updated"] * 2


def test_suppressed_moves_and_deletions(order, customers):
    with suppress_changes():
        order.customer = customers[1]
        order.save()
        order.delete()
    assert bus.history("orders") == []


def test_bulk(order, customers):
    Order.objects.update(status="paid")
    assert publish_bulk(Order.objects.all(), "updated", update_fields=["status"]) == 1
    [event] = bus.history(f"customers.{customers[0].pk}")
    assert (event.data["fields"]["status"], event.data["update_fields"]) == ("paid", ["status"])
    created = Order.objects.bulk_create([Order(item=i, total=1) for i in "xyz"])
    if created[0].pk:
        assert publish_bulk(created, "created") == 3
    assert publish_bulk(Order.objects.all(), "deleted") == 4
    with suppress_changes():
        assert publish_bulk(Order.objects.all(), "deleted") == 0


@pytest.mark.parametrize(
    ("objects", "action", "error"),
    [
        (lambda: Order.objects.all(), "changed", ValueError),
        (lambda: Tag.objects.all(), "updated", ImproperlyConfigured),
        (lambda: [Tag(name="x")], "updated", ImproperlyConfigured),
    ],
)
def test_bad_bulk(objects, action, error):
    with pytest.raises(error):
        publish_bulk(objects(), action)


def test_rollback_and_commit(order):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        order.save()
        raise ZeroDivisionError
    with transaction.atomic():
        order.save()
        assert bus.history("orders") == []
    assert actions("orders") == ["updated"]


def test_what_cannot_be_published_does_not_break_the_save(publish, configure, caplog):
    configure(MAX_EVENT_SIZE=400)
    publish(Document, topics=["documents", "slugs.{slug}", "last"], fields=["slug"])
    dotted = Document.objects.create(slug="a.b")
    assert "the value of {slug} is not" in caplog.text
    assert "a.b" not in caplog.text
    assert actions("documents") == actions("last") == ["created"]
    assert bus.history("slugs.a.b") == []
    caplog.clear()
    publish(Place, topics=["places"], fields=["name"])
    Place.objects.create(name="x" * 500)
    assert "lab.place.created was not published" in caplog.text
    assert "MAX_EVENT_SIZE" in caplog.text
    assert Document.objects.get() == dotted


def test_a_row_whose_value_holds_a_separator_is_not_published_as_that_of_another(publish, caplog):
    publish(Document, topics=["chat.{slug}-{count}", "documents"])
    Document.objects.create(slug="sales-board", count=5)
    assert bus.history("chat.sales-board-5") == []
    assert actions("documents") == ["created"]
    assert "the value of {slug} holds -, which separates it" in caplog.text
    Document.objects.create(slug="sales", count=5)
    assert actions("chat.sales-5") == ["created"]


def test_two_registrations_of_one_model(publish):
    publish(Place, topics=["public"])
    publish(Place, topics=["internal"], fields=["name"], actions=["deleted"])
    place = Place.objects.create(name="x")
    pk = place.pk
    place.delete()
    assert heard("public") == [("created", pk, {}), ("deleted", pk, {})]
    assert heard("internal") == [("deleted", pk, {"name": "x"})]


def test_the_default_topic_is_the_label(publish):
    publish(Place)
    Place.objects.create(name="x")
    assert actions("lab.place") == ["created"]


@pytest.mark.parametrize("atomic", [True, False])
def test_sqlite_too_tells_the_topic_that_a_row_really_leaves(
    publish, file_database, closing_connections, django_db_blocker, atomic
):
    """There the whole file is locked. Whoever has read it first may be refused to write it."""
    with connections["file"].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = wal")
    with connections["file"].schema_editor() as editor:
        editor.create_model(Tag)
    publish(Tag, topics=["named.{name}"])
    tag = Tag.objects.using("file").create(name="1")
    about_to_write, failed = threading.Event(), []

    def note(execute, sql, params, many, context):
        if sql.startswith("UPDATE"):
            about_to_write.set()
        return execute(sql, params, many, context)

    def save():
        with django_db_blocker.unblock():
            try:
                with (
                    connections["file"].execute_wrapper(note),
                    transaction.atomic("file") if atomic else contextlib.nullcontext(),
                ):
                    tag.name = "3"
                    tag.save()
            except Exception as error:
                failed.append(error)
            finally:
                connections["file"].close()

    thread = threading.Thread(target=save)
    other = sqlite3.connect(file_database["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE lab_tag SET name = '2'")
    thread.start()
    assert about_to_write.wait(20)
    other.execute("COMMIT")
    other.close()
    thread.join(20)
    assert failed == []
    assert actions("named.2") == ["updated"]
    assert actions("named.1") == ["created"]
    assert actions("named.3") == ["updated"]
