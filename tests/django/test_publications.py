"""publish_changes as it is told of models: what it refuses, and what the checks find."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models

from flosse_bus import publish_changes
from flosse_bus.changes import publications
from flosse_bus.checks import check_publications
from testproject.shop.models import Customer, Order, UrgentOrder
from tests.lab.models import Abstract, Blob, Document, Place, Tag


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "message"),
    [
        (object, {}, TypeError, "expected a model class"),
        (Abstract, {}, ImproperlyConfigured, "it is abstract"),
        (UrgentOrder, {}, ImproperlyConfigured, "it is a proxy"),
        (Tag, {"topics": "tags"}, TypeError, "topics: expected a list"),
        (Tag, {"fields": "name"}, TypeError, "fields: expected a list"),
        (Tag, {"actions": ["saved"]}, ImproperlyConfigured, "'saved' is none of created"),
        (Tag, {"topics": ["a b"]}, ImproperlyConfigured, "topics: 'a b'"),
        (Tag, {"topics": ["a.*"]}, ImproperlyConfigured, "a pattern cannot be published"),
        (Tag, {"topics": ["a.{b!r}"]}, ImproperlyConfigured, "is not a name"),
        (Tag, {"topics": ["a.{pk}{name}"]}, ImproperlyConfigured, "need text between"),
        (Tag, {"topics": [["a"]]}, ImproperlyConfigured, "is not a topic template"),
    ],
)
def test_what_is_refused_at_once(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        publish_changes(model, **kwargs)
    assert model not in {publication.model for publication in publications()}


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (
            Tag,
            {"topics": ["t.{nme}"]},
            r"topics\[0\] 't.{nme}' names 'nme'.*from: pk, id, name",
        ),
        (Document, {"topics": ["d.{slug}-{pk}"]}, r"every value of \{pk\} holds the '-'"),
        (Document, {"topics": ["d.{day}-{slug}"]}, r"every value of \{day\} holds the '-'"),
        (Tag, {"fields": ["nme"]}, r"fields names 'nme'.*Choose from: id, name"),
        (Place, {"topics": ["t.{tags}"]}, "names 'tags'"),
        (Tag, {"fields": ["places"]}, "names 'places'"),
        (Blob, {"fields": ["content"]}, "'content' is binary"),
        (Tag, {"bus": "nope"}, "FLOSSE_BUS has no 'nope'"),
    ],
)
def test_what_the_checks_find(publish, model, kwargs, message):
    publish(model, **kwargs)
    [error] = check_publications()
    assert (error.id, error.obj) == ("flosse_bus.E002", model)
    assert re.search(message, error.msg)


def test_what_the_checks_warn_of(publish):
    publish(Document, topics=["places.{place_id}"])
    [warning] = check_publications()
    assert warning.id == "flosse_bus.W004"
    assert "SET_NULL" in warning.msg


def test_as_a_decorator():
    assert {Order, Customer} <= {publication.model for publication in publications()}
    assert isinstance(Order._meta, models.options.Options)
