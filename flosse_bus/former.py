"""What a row is just before it is written: read when nobody else can write it any more.

Django's ``pre_save`` comes too early. Another transaction may still move the row, and then the
topic that this save takes it from is one that nobody has seen here. So the row is read, and locked,
between that signal and the ``UPDATE``, in one transaction with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import wraps
from typing import Any

from django.db import connections, models, transaction

from .publications import AnyModel
from .rows import Values, fetch, pk_of

#: What waits to be read, in an instance's state.
_WAITING = "flosse_bus_former"


class Former:
    """Some values of a row before a save; ``None`` as long as it is not there."""

    __slots__ = ("_model", "_names", "using", "values")

    def __init__(self, model: AnyModel, using: str, names: Sequence[str]) -> None:
        self.using = using
        self._model = model
        self._names = names
        self.values: Values | None = None

    def read_later(self, instance: models.Model) -> None:
        """Read it when the instance is about to be written."""
        waiting = instance._state.__dict__.setdefault(_WAITING, [])
        waiting.append(self)
        del waiting[:-8]  # saves that have failed leave theirs behind

    def read(self, instance: models.Model) -> None:
        pk = pk_of(self._model, instance)
        self.values = fetch_locked(self._model, pk, self.using, self._names)


def fetch_locked(model: AnyModel, pk: Any, using: str, names: Sequence[str]) -> Values | None:
    """Like ``fetch``, and nobody else writes the row until the end of the transaction."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        # The lock is that of the file. Who has read first, and then wants it, may be refused.
        field: Any = model._meta.concrete_fields[0]
        table, column = map(connection.ops.quote_name, (field.model._meta.db_table, field.column))
        with connection.cursor() as cursor:
            nothing = f"UPDATE {table} SET {column} = {column} WHERE 0"  # noqa: S608  # because these are quoted
            cursor.execute(nothing)
    return fetch(model, pk, using, names, lock=connection.features.has_select_for_update)


def watch(model: AnyModel) -> None:
    """Have the instances of a class read what waits for it. Again is harmless."""
    save_table: Any = getattr(model, "_save_table", None)
    if hasattr(save_table, "reads_former"):
        return

    @wraps(save_table)
    def wrapper(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        waiting = self._state.__dict__.pop(_WAITING, None)
        if not waiting:
            return save_table(self, *args, **kwargs)
        using = waiting[-1].using
        # What Django does in one query it does without a transaction. Here it is two.
        with (
            contextlib.nullcontext()
            if connections[using].in_atomic_block
            else transaction.atomic(using=using)
        ):
            for each in waiting:
                if each.using == using:
                    each.read(self)
            return save_table(self, *args, **kwargs)

    wrapper.reads_former = True  # type: ignore[attr-defined]  # because it is ours
    model._save_table = wrapper  # type: ignore[attr-defined]  # because Django has no hook there
