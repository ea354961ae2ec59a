"""Rows that others move at the same time: the topic that they really leave hears of it."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest
from django.db import connections, transaction

from flosse_bus import bus
from flosse_bus.changes import publish_changes, unpublish_changes
from tests.changes import actions
from tests.lab.models import Place, Tag, Tool
from tests.postgres import database
from tests.processes import wait_until


@pytest.fixture
def using(postgres_database, django_db_blocker):
    with django_db_blocker.unblock(), database.alias(postgres_database) as using:
        with connections[using].schema_editor() as editor:
            for model in (Tag, Place, Tool):
                editor.create_model(model)
        publish_changes(Tag, topics=["named.{name}"])
        yield using
        unpublish_changes(Tag)


def waits_for_a_lock(uri):
    with psycopg.connect(uri) as watcher:
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return watcher.execute(waiting).fetchone() is not None


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("action", ["updated", "deleted"])
def test_the_topic_that_a_row_leaves_hears_of_it_though_another_has_just_moved_it_there(
    using, postgres_database, django_db_blocker, atomic, action
):
    tag = Tag.objects.using(using).create(name="a")

    def change():
        with django_db_blocker.unblock():
            try:
                with transaction.atomic(using=using) if atomic else contextlib.nullcontext():
                    tag.name = "c"
                    tag.save() if action == "updated" else tag.delete()
            finally:
                connections[using].close()

    thread = threading.Thread(target=change)
    with psycopg.connect(postgres_database) as other:
        other.execute("UPDATE lab_tag SET name = 'b'")
        thread.start()
        wait_until(lambda: waits_for_a_lock(postgres_database), "the change to wait")
    thread.join(20)
    assert actions("named.b") == [action]
    assert actions("named.a") == ["created"]  # whoever has moved it from there tells this topic
    assert actions("named.c") == ([action] if action == "updated" else [])


def test_a_row_that_others_refer_to_meanwhile_is_saved_all_the_same(using, postgres_database):
    """What refers to a row locks its key. That is no reason to wait."""
    tag = Tag.objects.using(using).create(name="a")
    with psycopg.connect(postgres_database) as other:
        other.execute("SELECT FROM lab_tag FOR KEY SHARE")
        database.sql(using, "SET lock_timeout = '5s'")
        tag.name = "b"
        tag.save()
    assert actions("named.a") == ["created", "updated"]


def test_many_moves_at_once_leave_no_topic_unaware(using, django_db_blocker):
    """Each topic hears a move away for each move that has brought the row there, but the last."""
    tag = Tag.objects.using(using).create(name="0")

    def move(who):
        with django_db_blocker.unblock():
            try:
                for n in range(10):
                    Tag(pk=tag.pk, name=f"{who}-{n}").save(using=using)
            finally:
                connections[using].close()

    threads = [threading.Thread(target=move, args=(who,)) for who in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    last = Tag.objects.using(using).get().name
    for name in [f"{who}-{n}" for who in range(1, 5) for n in range(10)]:
        assert actions(f"named.{name}") == ["updated"] * (1 if name == last else 2), name
    assert bus.history("named.0")[-1].data["action"] == "updated"
