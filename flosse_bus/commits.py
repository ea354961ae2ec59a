"""Events that wait for a commit: those of one transaction go out in one call.

Each call of ``publish`` registers a hook with ``transaction.on_commit``. The first of them that
runs after the commit sends what all of them hold. If none gets to run, because a hook of another
app fails before, they are sent nevertheless: they were committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from django.db import transaction

from .events import Draft

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: Sends what was committed, the events of each call apart, and does not raise.
Send = Callable[[Sequence[Sequence[Draft]]], None]

#: What Django calls after a commit.
_RUN = "run_and_clear_commit_hooks"


def send_on_commit(connection: BaseDatabaseWrapper, send: Send, drafts: Sequence[Draft]) -> None:
    """Send events when the transaction of a connection commits, together with others of it."""
    if not isinstance(vars(connection).get(_RUN), _Commit):
        setattr(connection, _RUN, _Commit(connection))
    transaction.on_commit(_Hook(send, drafts), using=connection.alias, robust=True)


class _Hook:
    """The events of one call. Called by a test that has captured it, it sends just these."""

    def __init__(self, send: Send, drafts: Sequence[Draft]) -> None:
        self.send = send
        self.drafts: Sequence[Draft] = drafts
        #: The hooks that were committed with it, once they are, in order.
        self.committed: Sequence[_Hook] | None = None

    def __call__(self) -> None:
        together: dict[Send, list[Sequence[Draft]]] = {}
        for hook in (self,) if self.committed is None else self.committed:
            if hook.drafts:
                together.setdefault(hook.send, []).append(hook.drafts)
                hook.drafts = ()
        for send, calls in together.items():
            send(calls)


class _Commit:
    """Stands in for a connection's method that runs the hooks.

    Only there is it known which of them are left, for Django has dropped those of savepoints that
    were rolled back, and only there can be noticed that it has not come to ours.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._run: Callable[[], None] = connection.run_and_clear_commit_hooks

    def __call__(self) -> None:
        self._connection.validate_no_atomic_block()  # or else nothing is committed yet
        entries = self._connection.run_on_commit
        hooks = [entry[1] for entry in entries if isinstance(entry[1], _Hook)]
        for hook in hooks:
            hook.committed = hooks
        try:
            self._run()
        finally:
            for hook in hooks[:1]:
                hook()  # sends what has not been sent
            hooks.clear()  # each refers to all
