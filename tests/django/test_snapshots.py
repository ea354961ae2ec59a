"""A page that takes its cursor first, in a request that SQLite shows one state of the file."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from flosse_bus import bus
from tests.lab.models import Tag


@pytest.fixture
def other(file_database):
    """Another connection to the file, as another process would have."""
    with connections["file"].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = wal")
    with connections["file"].schema_editor() as editor:
        editor.create_model(Tag)
    connections.settings["other"] = {**connections.settings["file"]}
    yield "other"
    connections["other"].close()
    del connections["other"], connections.settings["other"]


def names():
    return set(Tag.objects.using("file").values_list("name", flat=True))


def change(other, name):
    Tag.objects.using(other).create(name=name)
    bus.publish("tags", name, using=other)


@pytest.mark.parametrize("cursor_first", [True, False])
def test_in_a_transaction_on_sqlite_the_cursor_comes_before_the_first_query(other, cursor_first):
    """As under ATOMIC_REQUESTS: what the file holds is settled by the first query of the request."""
    with transaction.atomic(using="file"):
        if not cursor_first:
            names()  # of a session or a user, say
            change(other, "between")
        cursor = bus.cursor("tags")
        if cursor_first:
            change(other, "between")
        shown = names()
    streamed = {event.data for event in bus.history("tags", after=cursor)}
    # Otherwise it is in neither: docs/publishing.md says what to do.
    assert shown | streamed == ({"between"} if cursor_first else set())
