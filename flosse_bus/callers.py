"""Which thread async code would have to ask whether a transaction holds what it publishes.

Async code has no transactions. But sync code that waits for it, below ``async_to_sync``, may be in
one, and so may the worker of ``sync_to_async``, which other code may have left so. Connections
cannot be asked for from another thread, but looked at, and each knows its thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db.backends.signals import connection_created


class _Own(NamedTuple):
    """What has been opened under one thread identifier, which may be that of a thread after it."""

    opener: weakref.ref[threading.Thread] | None
    connections: tuple[weakref.ref[Any], ...]


_NONE = _Own(None, ())
#: By alias and thread identifier. The values are never changed: they are read without the lock.
_opened: dict[str, dict[int | None, _Own]] = {}
_lock = threading.Lock()


def may_wait_for_async(using: str) -> bool:
    """Is the thread that ``sync_to_async`` takes here in a transaction on a database?

    No other thread of the process matters. Where asgiref is not as known, it may be any of them.
    """
    opened = _opened.get(using)
    if not opened:
        return False
    try:
        waiting = _waiting()
        threads = waiting if waiting is not None else _workers()
    except AttributeError:
        return any(_in_transaction(own) for own in list(opened.values()))
    for thread in threads:
        # A loop of its own in that very thread would wait for itself.
        if thread.ident != threading.get_ident() and (
            _in_transaction(opened.get(thread.ident, _NONE))
            or _in_transaction(opened.get(None, _NONE))
            or (waiting is not None and _borrows(thread, opened))
        ):
            return True
    return False


async def ask_caller(question: Callable[[], bool], using: str) -> bool:
    """Return what that thread answers; ``False`` if it goes on without us before it is asked."""
    asked = False

    def ask() -> bool:
        nonlocal asked
        asked = True
        return question()

    try:
        return await sync_to_async(ask)()
    except RuntimeError:  # which also is what asgiref says when there is nobody to ask any more
        if asked or may_wait_for_async(using):
            raise
        return False


# How SyncToAsync.__call__ finds its thread. A worker that has not begun yet is in no transaction.


def _waiting() -> Sequence[threading.Thread] | None:
    """Return the thread of the sync code that waits for us, if there is such code.

    It is left when ``async_to_sync()`` returns. What is left of the async code then is on its own,
    or below the sync code further out, and no transaction of that thread holds what it does.
    """
    found: Any = _nearest()
    if not found:
        context: Any = SyncToAsync.thread_sensitive_context
        if not AsyncToSync.loop_thread_executors or context.get(None):
            return None
        found = AsyncToSync.loop_thread_executors.get(asyncio.get_running_loop())
        if not found:
            return None
    while found._broken:
        found = getattr(found, "_old_executor", None)
        if found is None:
            return ()
    return (found._work_thread,)


def _workers() -> Iterable[threading.Thread]:
    context: Any = SyncToAsync.thread_sensitive_context.get(None)
    executor: Any = SyncToAsync.single_thread_executor
    if context:
        executor = SyncToAsync.context_to_thread_executor.get(context)
    return () if executor is None else tuple(executor._threads)


def _nearest() -> object:
    """Return where sync code waits that has called this by ``async_to_sync``, if any does."""
    # What the last line does costs a third of all that apublish() does, if it finds nothing.
    storage = getattr(getattr(AsyncToSync.executors, "_storage", None), "_data", None)
    if isinstance(storage, ContextVar):
        found = storage.get(None)
        if found is None:
            return None
        values = getattr(found, "data", found)  # since asgiref 3.12 there is a thread beside them
        if isinstance(values, dict) and values.get("current") is None:
            return None
    return getattr(AsyncToSync.executors, "current", None)


def _in_transaction(own: _Own) -> bool:
    for reference in own.connections:
        connection = reference()
        if connection is not None and connection.in_atomic_block:
            return True
    return False


def _borrows(thread: threading.Thread, opened: dict[int | None, _Own]) -> bool:
    """Could a thread be in a transaction on the connection of another, as those of Django's
    ``LiveServerTestCase`` are? Not if it has opened one itself."""
    opener = opened.get(thread.ident, _NONE).opener
    if opener is not None and opener() is thread:
        return False
    return any(
        connection is not None
        and connection.in_atomic_block
        and getattr(connection, "allow_thread_sharing", True)
        for own in list(opened.values())
        for connection in (reference() for reference in own.connections)
    )


def _remember(*, connection: Any, **kwargs: Any) -> None:
    reference = weakref.ref(connection)
    ident: int | None = getattr(connection, "_thread_ident", None)
    own_thread = ident == threading.get_ident()
    opener = weakref.ref(threading.current_thread()) if own_thread else None
    with _lock:
        opened = _opened.setdefault(connection.alias, {})
        for other, own in list(opened.items()):
            if not any(each() is not None for each in own.connections):
                del opened[other]
        alive = [each for each in opened.get(ident, _NONE).connections if each() is not None]
        if reference not in alive:  # it may have been closed and opened again
            alive.append(reference)
        opened[ident] = _Own(opener, tuple(alive))


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


connection_created.connect(_remember, dispatch_uid="flosse_bus.callers")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
