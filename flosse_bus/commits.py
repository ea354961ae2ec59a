"""Events that wait for a commit: those of one transaction go out in one call.

Each call of ``publish`` registers a hook with ``transaction.on_commit``. The first of them that
runs after the commit sends what all of them hold, but for what a savepoint took back. So no hook of
another app that comes after it, and fails, can keep committed events from being sent.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import AsyncToSync, SyncToAsync
from django.db import transaction
from django.db.backends.signals import connection_created

from .events import Draft

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: Sends what was committed, the events of each call apart, and does not raise.
Send = Callable[[Sequence[Sequence[Draft]]], None]


def send_on_commit(connection: BaseDatabaseWrapper, send: Send, drafts: Sequence[Draft]) -> None:
    """Send events when the transaction of a connection commits, together with others of it."""
    hooks: list[Any] = connection.run_on_commit
    earlier = (entry[1] for entry in reversed(hooks) if isinstance(entry[1], _Hook))
    last = next(earlier, None)
    hook = _Hook(last.batch if last is not None else [], send, drafts)
    transaction.on_commit(hook, using=connection.alias, robust=True)
    # Django drops a hook together with the savepoints in the first field of its entry. There is no
    # such entry where a test has on_commit() call hooks at once.
    if hooks and hooks[-1][1] is hook:
        savepoints, *rest = hooks[-1]
        hooks[-1] = (_Savepoints(savepoints, hook), *rest)


class _Hook:
    """The events of one call. ``batch`` holds all hooks of the transaction, in order."""

    def __init__(self, batch: list[_Hook], send: Send, drafts: Sequence[Draft]) -> None:
        self.batch = batch
        self.drafts: Sequence[Draft] = drafts
        self.send = send
        self.index = len(batch)
        batch.append(self)

    def __call__(self) -> None:
        # Not what comes before: it was rolled back, or belongs to a test that captures hooks.
        together: dict[Send, list[Sequence[Draft]]] = {}
        for hook in self.batch[self.index :]:
            if hook.drafts:
                together.setdefault(hook.send, []).append(hook.drafts)
                hook.drafts = ()
        for send, calls in together.items():
            send(calls)


class _Savepoints(set[str]):
    """The savepoints that a hook was registered in. It learns when one of them is rolled back."""

    def __init__(self, names: set[str], hook: _Hook) -> None:
        super().__init__(names)
        self._hook = hook

    def __contains__(self, name: object) -> bool:
        inside = super().__contains__(name)
        if inside:
            self._hook.drafts = ()
        return inside


# For async code

_opened: dict[int, weakref.ref[Any]] = {}


def may_wait_for_async(using: str) -> bool:
    """Could the thread that ``sync_to_async`` takes here be in a transaction on a database?

    Only if any connection of this process is in one: connections cannot be asked for from another
    thread, but looked at. Then that thread is the one of the sync code that called this by
    ``async_to_sync``, if there is one, or else a worker, which other code may have left so.
    """
    if not _is_any_in_transaction(using):
        return False
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return True
    surroundings = SyncToAsync.thread_sensitive_context.get(None)
    if surroundings is None:
        if asyncio.get_running_loop() in AsyncToSync.loop_thread_executors:
            return True
    elif surroundings not in SyncToAsync.context_to_thread_executor:
        return False  # it has no thread yet
    return True


def _is_any_in_transaction(using: str) -> bool:
    for reference in list(_opened.values()):
        connection = reference()
        if connection is not None and connection.alias == using and connection.in_atomic_block:
            return True
    return False


def _remember(*, connection: Any, **kwargs: Any) -> None:
    key = id(connection)
    if key not in _opened:
        _opened[key] = weakref.ref(connection, partial(_forget, key))


def _forget(key: int, reference: weakref.ref[Any]) -> None:
    if _opened.get(key) is reference:
        del _opened[key]


connection_created.connect(_remember, dispatch_uid="flosse_bus.commits")
