"""Open streams under ``flosse_bus.asgi`` whose permission is asked for again, all at once."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from django.db import connections

from flosse_bus import access, bus
from flosse_bus.transport import fanout, rechecks
from tests.asgi import eventually, site
from tests.lab.urls import Ask

STREAMS = 60
NO = json.dumps({"code": "forbidden", "detail": "You may not read this stream."})


@pytest.fixture
def looks(monkeypatch):
    """Have every stream asked about as often as one looks: return the list of looks."""
    looks = []
    monkeypatch.setattr(fanout, "WATCH", 0.01)
    monkeypatch.setattr(access.Access, "due", property(lambda self: not looks.append(self)))
    return looks


@pytest.fixture
def door(ask):
    """An authoriser that has those wait who are asked about again: call it to let them in."""

    class Door:
        def __init__(self):
            self.open, self.waiting, self.answer = threading.Event(), 0, True
            self.shut = False

        def __call__(self, request):
            if self.shut:
                self.waiting += 1
                assert self.open.wait(20)
                return self.answer
            return True

    door = Door()
    ask(door)
    yield door
    door.open.set()


def tasks():
    return len(asyncio.all_tasks())


def test_streams_go_on_and_hold_no_task_while_they_wait_for_their_turn(run, door, looks):
    async def main():
        async with site() as here:
            streams = [await here.follow("/asked/") for _ in range(STREAMS)]
            before = tasks()
            door.shut = True
            # More than those that are being asked about stay where they are: in the queue.
            await eventually(lambda: door.waiting == rechecks.AT_ONCE, "threads that ask")
            assert tasks() <= before + rechecks.AT_ONCE
            looks.clear()
            await eventually(lambda: len(looks) >= 3 * STREAMS, "some more looks")
            waiting = fanout.fanouts.here().rechecks._waiting
            assert len(waiting) == len(set(waiting)) == STREAMS - rechecks.AT_ONCE
            await bus.apublish("private", 1, using=None)
            for stream in streams:
                await stream.got("1")
            assert door.waiting == rechecks.AT_ONCE
            door.open.set()
            await eventually(lambda: door.waiting >= STREAMS, "all to be asked about")
            await bus.apublish("private", 2, using=None)
            for stream in streams:
                await stream.got("1", "2")

    run(main())


def test_what_is_overdue_waits_for_its_answer(run, door):
    async def main():
        async with site() as here:
            streams = [await here.follow("/asked-again/") for _ in range(STREAMS)]
            before = tasks()
            door.shut, door.answer = True, False
            await eventually(lambda: all(s.overdue for s in accesses(here)), "all to be overdue")
            await bus.apublish("private", 1, using=None)
            await eventually(lambda: door.waiting == rechecks.AT_ONCE, "threads that ask")
            assert tasks() <= before + rechecks.AT_ONCE
            assert [stream.data for stream in streams] == [[]] * STREAMS
            door.open.set()
            for stream in streams:
                await stream.over()
                assert stream.complete
                assert stream.events == [("stream-error", NO)]

    run(main())


def test_an_answer_does_not_wait_for_the_next_question(run, ask, monkeypatch):
    """Which the same thread asks, and which may take long."""
    monkeypatch.setattr(rechecks, "AT_ONCE", 1)
    again, let_go = [], threading.Event()

    def answer(request):
        if ready:
            again.append(request)
            if len(again) > 1:
                assert let_go.wait(20)
            return False
        return True

    async def main():
        async with site() as here:
            streams = [await here.follow("/asked-again/") for _ in range(2)]
            await eventually(lambda: all(s.overdue for s in accesses(here)), "all to be overdue")
            ready.append(True)
            await bus.apublish("private", 1, using=None)
            try:
                await eventually(lambda: any(s.task.done() for s in streams), "the first to end")
                assert not all(s.task.done() for s in streams)
            finally:
                let_go.set()
            for stream in streams:
                await stream.over()
                assert stream.events == [("stream-error", NO)]

    ready = []
    ask(answer)
    run(main())


def accesses(here):
    return [outlet._stream.access for outlet in fanout.fanouts.here().guarded]


def test_nothing_but_a_yes_counts(rf, ask, monkeypatch):
    """The stream goes on meanwhile, so a question must not count as an answer."""
    now, before, answers = [0.0], [], [True, True, False]
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ask(lambda request: before.append(one.overdue) or answers.pop(0))
    one = access.Access(
        bus.config, ("x",), permission_classes=[Ask], recheck_every=60, trusted=True
    )
    assert one.check(rf.get("/")) is None
    now[0] = 61.0
    assert one.recheck() is None
    assert not one.overdue
    now[0] = 62.0
    assert one.recheck() is not None
    assert one.overdue
    assert before == [False, True, False]


@pytest.mark.parametrize("how", ["leave", "shutdown"])
def test_streams_end_while_they_wait_for_their_turn(run, door, how):
    async def main():
        async with site() as here:
            streams = [await here.follow("/asked-again/") for _ in range(STREAMS)]
            door.shut = True
            await eventually(lambda: all(s.overdue for s in accesses(here)), "all to be overdue")
            await bus.apublish("private", 1, using=None)
            await eventually(lambda: door.waiting == rechecks.AT_ONCE, "threads that ask")
            if how == "leave":
                for stream in streams:
                    stream.leave()
            else:
                bus.hubs.here().end_all("shutdown")
            for stream in streams:
                await stream.over()
                assert stream.data == []
                assert stream.complete is (how == "shutdown")
            door.open.set()
        assert door.waiting == rechecks.AT_ONCE  # nobody asks about those that have gone

    run(main())


def test_a_view_may_have_each_block_asked_about(run, ask, monkeypatch):
    """With ``recheck_every=0`` an answer is good for what is sent on it."""
    monkeypatch.setattr(access.Access, "overdue", property(lambda self: not self.always))
    asked = []

    async def main():
        async with site() as here:
            stream = await here.follow("/asked/")
            for n in range(5):
                # An answer that is still to come would be good for the next block.
                await eventually(lambda: not fanout.fanouts.here().rechecks._tasks, "all answers")
                await asyncio.sleep(0)
                before = len(asked)
                await bus.apublish("private", n, using=None)
                await stream.got(*map(str, range(n + 1)))
                assert len(asked) > before

    ask(lambda request: asked.append(request) or True)
    run(main())


def test_an_error_ends_the_stream_that_it_belongs_to(run, ask, monkeypatch, caplog):
    recheck = access.Access.recheck
    broken = []

    def fail_once(self):
        if not broken:
            broken.append(self)
            raise RuntimeError("no such session store")
        return recheck(self)

    async def main():
        async with site() as here:
            streams = [await here.follow("/asked-again/") for _ in range(5)]
            await eventually(lambda: all(s.overdue for s in accesses(here)), "all to be overdue")
            await bus.apublish("private", 1, using=None)
            await eventually(lambda: sum(s.task.done() for s in streams) == 1, "one to end")
            for stream in streams:
                if not stream.task.done():
                    await stream.got("1")

    monkeypatch.setattr(access.Access, "recheck", fail_once)
    ask(lambda request: True)
    run(main())
    assert "no such session store" in caplog.text


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, GeneratorExit])
def test_an_authoriser_that_raises_whatever_it_likes_ends_its_own_stream(run, ask, kind, caplog):
    """Also what no ``except Exception`` sees: a cancelled task, ``sys.exit()``, gevent's timeout."""
    broken = []

    def answer(request):
        if ready and not broken:
            broken.append(request)
            raise kind("enough")
        return True

    async def main():
        async with site() as here:
            streams = [await here.follow("/asked-again/") for _ in range(5)]
            await eventually(lambda: all(s.overdue for s in accesses(here)), "all to be overdue")
            ready.append(True)
            await bus.apublish("private", 1, using=None)
            await eventually(lambda: sum(s.task.done() for s in streams) == 1, "one to end")
            for stream in streams:
                if not stream.task.done():
                    await stream.got("1")
                else:
                    assert stream.data == []

    ready = []
    ask(answer)
    run(main())
    assert "its permission could not be checked" in caplog.text


class TestConnections:
    """A thread keeps its database connection for all whom it asks about, and no longer."""

    @pytest.fixture(autouse=True)
    def one_thread(self, monkeypatch, file_database):
        monkeypatch.setattr(rechecks, "AT_ONCE", 1)
        monkeypatch.setattr(rechecks, "SLICE", 20)

    @pytest.fixture
    def made(self, run, ask, door):
        """Return the connections that are seen by streams about which ``query`` is asked."""

        def made(query):
            seen = []

            def look(request):
                if door(request) and door.shut:
                    connection = connections["file"]
                    connection.ensure_connection()
                    seen.append((connection, connection.connection, connection.autocommit))
                    query(connection, len(seen))
                return True

            async def main():
                async with site() as here:
                    for _ in range(STREAMS):
                        await here.follow("/asked-again/")
                    door.shut = True
                    await eventually(
                        lambda: all(s.overdue for s in accesses(here)), "all to be overdue"
                    )
                    await bus.apublish("private", 1, using=None)
                    await eventually(lambda: door.waiting, "the first to be asked about")
                    door.open.set()
                    await eventually(lambda: len(seen) >= STREAMS, "all to be asked about")
                    await eventually(
                        lambda: all(one.connection is None for one, *_ in seen), "them to be closed"
                    )

            ask(look)
            run(main())
            return seen

        return made

    def test_they_are_shared(self, made):
        seen = made(lambda connection, number: connection.cursor().execute("SELECT 1"))
        assert len({raw for _, raw, _ in seen[:STREAMS]}) == 1

    @pytest.mark.parametrize("how", ["broken", "transaction"])
    def test_what_one_has_left_behind_is_not_the_next_ones(self, made, how):
        def query(connection, number):
            if number != 3:
                return
            if how == "broken":
                connection.cursor().execute("SELECT nothing")
            else:
                connection.set_autocommit(False)

        seen = made(query)
        assert len({raw for _, raw, _ in seen[:STREAMS]}) == 2
        assert seen[2][1] is not seen[3][1]
        assert all(autocommit for *_, autocommit in seen)
