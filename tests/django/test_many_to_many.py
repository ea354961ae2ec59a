"""publish_changes: relations that are added, removed and cleared, from either side."""

from __future__ import annotations

import pytest
from django.db.models import Prefetch

from flosse_bus import bus
from testproject.shop.models import Label
from tests.changes import actions, heard
from tests.lab.models import Person, Place, Tag

pytestmark = pytest.mark.django_db(transaction=True)


def test_from_the_side_that_has_the_field(order):
    labels = [Label.objects.create(name=name) for name in "ab"]
    order.labels.add(*labels)
    order.labels.add(*labels)  # nothing new
    order.labels.remove(labels[0])
    order.labels.set([labels[0]])
    order.labels.clear()
    assert actions("orders") == ["updated"] * 5
    assert bus.history("orders")[0].data["update_fields"] == ["labels"]


def test_from_the_other_side(order):
    label = Label.objects.create(name="a")
    label.order_set.add(order)
    label.order_set.clear()
    label.order_set.clear()
    assert [(a, pk) for a, pk, _ in heard("orders")] == [("updated", order.pk)] * 2


def test_values_are_keys_and_not_fooled_by_prefetching(publish):
    publish(Place, topics=["places"], fields=["tags"])
    tags = [Tag.objects.create(name=name) for name in "abc"]
    place = Place.objects.create(name="x")
    place.tags.set(tags)
    [loaded] = Place.objects.prefetch_related(
        Prefetch("tags", queryset=Tag.objects.filter(name="a"))
    )
    loaded.save()
    expected = [tag.pk for tag in tags]
    assert [fields["tags"] for _, _, fields in heard("places")] == [[], expected, expected]


def test_symmetrical_relations_change_both(publish):
    publish(Person, topics=["people.{pk}"])
    one, two = Person.objects.create(), Person.objects.create()
    one.friends.add(two)
    two.friends.remove(one)
    one.friends.add(two)
    one.friends.clear()
    for person in (one, two):
        assert actions(f"people.{person.pk}") == ["created", *["updated"] * 4]


def test_only_for_who_wants_updates(publish):
    publish(Place, topics=["places"], actions=["created"])
    place = Place.objects.create(name="x")
    place.tags.add(Tag.objects.create(name="a"))
    place.delete()
    assert actions("places") == ["created"]
