"""A page that takes its cursor first: what transactions with a snapshot of their own make of that."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from flosse_bus import bus
from tests.lab.models import Tag
from tests.postgres import database


@pytest.fixture
def page(postgres_database, django_db_blocker):
    """Return a function that renders a page in a transaction, and what its stream would bring."""
    repeatable = {"isolation_level": 3}  # psycopg.IsolationLevel.REPEATABLE_READ
    with (
        django_db_blocker.unblock(),
        database.alias(postgres_database, "writer"),
        database.alias(postgres_database, "reader", OPTIONS=repeatable) as reader,
    ):
        with connections["writer"].schema_editor() as editor:
            editor.create_model(Tag)

        def change(name):
            Tag.objects.using("writer").create(name=name)
            bus.publish("tags", name)

        def page(*steps):
            shown, cursor = None, None
            with transaction.atomic(using=reader):
                for step in steps:
                    if step == "query":
                        shown = set(Tag.objects.using(reader).values_list("name", flat=True))
                    elif step == "cursor":
                        cursor = bus.cursor("tags")
                    else:
                        change(step)
            change("after")
            return shown, [event.data for event in bus.history("tags", after=cursor)]

        yield page


def test_under_repeatable_read_the_cursor_comes_before_the_first_query(page):
    """Then what is not in the snapshot is after the cursor."""
    shown, streamed = page("cursor", "between", "query")
    assert shown | set(streamed) == {"between", "after"}


def test_under_repeatable_read_a_cursor_after_a_query_misses_what_came_between(page):
    """The snapshot is that of the first query, whatever it was about, and the cursor is of now."""
    shown, streamed = page("query", "between", "cursor", "query")
    assert (shown, streamed) == (set(), ["after"])  # docs/publishing.md says what to do
