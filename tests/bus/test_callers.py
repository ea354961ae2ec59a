"""apublish: whose transaction holds the event, and who is asked."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from concurrent.futures import Executor, ThreadPoolExecutor

import asgiref
import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.http import HttpResponse
from django.test import AsyncClient
from django.urls import path

from flosse_bus import bus, callers
from tests.asgi import DEADLINE, eventually

pytestmark = pytest.mark.django_db(transaction=True)

#: Before, a task that was left behind could not tell, and waited for a worker like any other.
TELLS = pytest.mark.skipif(
    tuple(map(int, asgiref.__version__.split(".")[:2])) < (3, 9), reason="asgiref 3.9"
)
CONTEXTS = pytest.mark.parametrize("context", [ThreadSensitiveContext, contextlib.nullcontext])


@pytest.fixture
def hops(monkeypatch):
    """Note what is asked in another thread."""
    count = []

    def counted(function):
        count.append(function)
        return sync_to_async(function)

    monkeypatch.setattr(callers, "sync_to_async", counted)
    return count


@pytest.fixture
def busy(closing_connections):
    """Another thread is in a transaction, of which nobody here knows."""
    begun, done = threading.Event(), threading.Event()

    def work():
        with contextlib.closing(connection), transaction.atomic():
            begun.set()
            done.wait(DEADLINE)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(DEADLINE)
    yield
    done.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.fixture
def worker(monkeypatch, closing_connections):
    """A fresh one for what is in no context."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
        yield executor
        executor.submit(connections.close_all)


async def published(n):
    """Publish, and say whether that was done at once."""
    return await bus.apublish("t", n) is not None


def data():
    return [event.data for event in bus.history("t")]


def query():
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")


class TestNobodyIsAsked:
    def test_where_no_transaction_is_open(self, run, hops, closing_connections):
        async def main():
            async with ThreadSensitiveContext():
                assert await published(1)  # before the context has a thread
                await sync_to_async(query)()
                assert await published(2)
                await sync_to_async(connections.close_all)()

        run(main())
        assert hops == []

    @CONTEXTS
    def test_while_another_thread_is_in_a_transaction(self, run, hops, worker, busy, context):
        async def main():
            async with context():
                assert await published(1)  # before there is a thread
                await sync_to_async(lambda: None)()
                assert await published(2)  # before it has a connection
                await sync_to_async(query)()
                assert await published(3)
                assert await bus.apublish_many([("t", 4)])
                await sync_to_async(connections.close_all)()

        run(main())
        assert hops == []

    def test_below_sync_code_that_is_in_no_transaction(self, hops, busy):
        query()
        assert async_to_sync(published)(1)

        async def nested():
            return await sync_to_async(async_to_sync(published))(2)

        assert async_to_sync(nested)()
        assert hops == []

    def test_but_the_connections_of_one_thread_are_looked_at(self, hops):
        """However many others there are."""

        class Connection:
            alias = "default"

            def __init__(self, thread):
                self._thread_ident = thread

            @property
            def in_atomic_block(self):
                raise AssertionError("looked at")

        query()
        others = [Connection(-1 - n) for n in range(60)]
        for other in others:
            callers._remember(connection=other)
        assert async_to_sync(published)(1)
        del other, others
        gc.collect()

    def test_from_a_test_in_a_transaction_by_code_that_it_does_not_wait_for(self, run, hops):
        with transaction.atomic():
            assert run(published(1))
        assert hops == []

    @CONTEXTS
    def test_from_a_loop_of_its_own_in_the_very_thread(self, run, worker, hops, context):
        """It would wait for itself."""

        def save():
            with contextlib.closing(connection), transaction.atomic():
                assert asyncio.run(published(1))

        async def main():
            async with context():
                await sync_to_async(save)()

        run(main())
        assert hops == []


class TestAsked:
    def test_a_task_of_code_that_a_transaction_has_called_waits(self):
        async def main():
            return await asyncio.create_task(published(1))

        async def in_an_empty_context():
            task = contextvars.Context().run(asyncio.get_running_loop().create_task, main())
            return await task

        for work in (main, in_an_empty_context):
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                assert not async_to_sync(work)()
                raise ZeroDivisionError
        assert data() == []

    @CONTEXTS
    def test_a_transaction_left_open_in_a_worker_is_seen(self, run, context, closing_connections):
        async def main():
            async with context():
                block = transaction.atomic()
                await sync_to_async(block.__enter__)()
                try:
                    assert not await published(1)
                    assert await bus.apublish_many([("t", 2), ("t", 3)]) is None
                    assert data() == []
                finally:
                    await sync_to_async(block.__exit__)(None, None, None)
                    await sync_to_async(connections.close_all)()
                assert data() == [1, 2, 3]

        run(main())

    def test_sync_code_below_async_code_below_a_transaction(self):
        async def outer():
            return await sync_to_async(async_to_sync(published))(1)

        with transaction.atomic():
            assert not async_to_sync(outer)()
        assert data() == [1]

    @CONTEXTS
    def test_a_transaction_of_sync_code_below_async_code(self, run, closing_connections, context):
        def save():
            with contextlib.closing(connection), transaction.atomic():
                assert not async_to_sync(published)(1)
                assert data() == []

        async def main():
            async with context():
                await sync_to_async(save)()
                assert await published(2)

        run(main())
        assert data() == [1, 2]

    def test_a_thread_that_uses_the_connection_of_another(self):
        """As those of Django's LiveServerTestCase do."""
        shared = connections["default"]
        found = []

        def work():
            connections["default"] = shared
            with transaction.atomic():
                found.append(async_to_sync(published)(1))

        query()
        shared.inc_thread_sharing()
        try:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(DEADLINE)
        finally:
            shared.dec_thread_sharing()
        assert found == [False]
        assert data() == [1]

    def test_executors_of_another_kind_are_asked(self, run, monkeypatch, hops, busy, worker):
        class Other(Executor):
            def submit(self, *args, **kwargs):
                return worker.submit(*args, **kwargs)

        monkeypatch.setattr(SyncToAsync, "single_thread_executor", Other())
        assert run(published(1))
        assert len(hops) == 1

    def test_errors_of_the_thread_are_passed_on(self, monkeypatch):
        def fail(*args):
            raise RuntimeError("broken")

        monkeypatch.setattr(bus.backend, "enlist", fail)
        with transaction.atomic(), pytest.raises(RuntimeError, match="broken"):
            async_to_sync(published)(1)
        assert data() == []


async def outlive(begin, tasks, returned):
    """Have a transaction begin a task, and stay open until the task has published."""
    go_on = threading.Event()

    def view(loop):
        with contextlib.closing(connection), transaction.atomic():
            async_to_sync(begin)()
            loop.call_soon_threadsafe(returned.set)
            assert go_on.wait(DEADLINE)  # in the transaction, for as long as it takes

    async with ThreadSensitiveContext():
        work = asyncio.create_task(sync_to_async(view)(asyncio.get_running_loop()))
        try:
            await eventually(lambda: tasks and tasks[0].done(), "the task to publish")
        finally:
            go_on.set()
            await work
        assert tasks[0].result() is True


class TestLeftBehind:
    """Tasks that go on after the ``async_to_sync`` that has begun them."""

    @TELLS
    def test_a_task_belongs_to_the_transaction_no_more(self, run, closing_connections, hops):
        returned, tasks = asyncio.Event(), []

        async def later():
            await returned.wait()
            return await published(1)

        async def begin():
            tasks.append(asyncio.create_task(later()))

        run(outlive(begin, tasks, returned))
        assert data() == [1]
        assert hops == []

    @TELLS
    def test_nor_if_it_was_left_just_now(self, run, closing_connections, monkeypatch):
        """After it has been seen that the sync code is in a transaction, and before it is asked."""
        returned, tasks = asyncio.Event(), []

        def late(function):
            async def ask():
                asking.set()
                await returned.wait()
                return await sync_to_async(function)()

            return ask

        asking = asyncio.Event()
        monkeypatch.setattr(callers, "sync_to_async", late)

        async def begin():
            tasks.append(asyncio.create_task(published(1)))
            await asking.wait()

        run(outlive(begin, tasks, returned))
        assert data() == [1]

    @TELLS
    def test_a_task_that_is_left_by_the_inner_code_only_waits(self):
        tasks = []

        async def begin():
            tasks.append(asyncio.create_task(later()))

        async def later():
            await left.wait()
            return await published(1)

        left = asyncio.Event()

        async def outer():
            await sync_to_async(async_to_sync(begin))()
            left.set()
            return await tasks[0]

        with transaction.atomic():
            assert not async_to_sync(outer)()
            assert data() == []
        assert data() == [1]

    def test_a_task_that_is_cancelled_at_the_end_may_still_publish(self):
        """Its loop is closed while the sync code waits."""
        found = []

        async def last_words():
            try:
                await asyncio.Event().wait()
            finally:
                found.append(await published(1))

        async def main():
            tasks.append(asyncio.create_task(last_words()))
            await asyncio.sleep(0)

        tasks = []
        with transaction.atomic():
            async_to_sync(main)()
            assert data() == []
        assert (found, data()) == ([False], [1])


class TestTestCases:
    """Those of ``TestCase`` are in a transaction themselves."""

    pytestmark = pytest.mark.django_db(transaction=False)

    def test_an_async_test_and_its_client(self, settings, django_capture_on_commit_callbacks):
        async def view(request):
            return HttpResponse(str(await published(1)))

        def sync_view(request):
            return HttpResponse(str(async_to_sync(published)(2)))

        urls = type("urls", (), {"urlpatterns": [path("a/", view), path("s/", sync_view)]})
        settings.ROOT_URLCONF = urls

        async def test():
            assert not await published(0)
            assert (await AsyncClient().get("/a/")).content == b"False"
            assert (await AsyncClient().get("/s/")).content == b"False"

        with django_capture_on_commit_callbacks(execute=True):
            async_to_sync(test)()
            assert data() == []
        assert data() == [0, 1, 2]


def test_connections_of_threads_that_are_gone_are_forgotten(closing_connections):
    def work():
        query()
        connections.close_all()

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(DEADLINE)
    gc.collect()
    connection.close()
    thread = threading.Thread(target=work)  # which makes room, as every new connection does
    thread.start()
    thread.join(DEADLINE)
    idents = {each.ident for each in threading.enumerate()}
    assert {*callers._opened["default"]} <= {*idents, thread.ident}
