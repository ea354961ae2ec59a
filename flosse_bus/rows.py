"""The values of a row, as the database has them."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.db.models.fields.files import FieldFile

from .publications import AnyModel, Publication

Values = dict[str, Any]

_NOTHING: Values = {}


def values_of(
    publication: Publication,
    instance: models.Model,
    using: str,
    *,
    reload: Iterable[str] = (),
    known: Mapping[str, Any] = _NOTHING,
) -> Values:
    """Return what the publication needs of a row.

    What the instance holds is used where that is just what the database holds; ``reload`` names
    fields where it is not, and ``known`` has values that were read. The rest, such as
    ``F("stock") - 1``, costs one query.
    """
    values: Values = {**known}
    missing = list(reload)
    deferred = instance.get_deferred_fields()
    for name in publication.sources:
        field = field_of(publication.model, name)
        if name in missing or name in values:
            continue
        value = None if field.attname in deferred else getattr(instance, field.attname)
        if isinstance(value, enum.Enum):
            value = value.value
        if field.attname not in deferred and _is_stored(field, value):
            values[name] = value
        else:
            missing.append(name)
    if missing:
        pk = pk_of(publication.model, instance)
        values |= fetch(publication.model, pk, using, missing) or {}
    for field in publication.model._meta.many_to_many:
        if field.name in publication.fields:
            values[field.name] = related_pks(field, instance, using, reverse=False)
    return values


def fetch(
    model: AnyModel, pk: Any, using: str, names: Sequence[str], *, lock: bool = False
) -> Values | None:
    """Return stored values of a row, or ``None`` if there is no such row."""
    fields = [field_of(model, name) for name in names]
    rows = model._base_manager.using(using).filter(pk=pk).order_by()
    if lock:
        # Not more than an UPDATE would take: others may go on to refer to the row.
        no_key = connections[using].features.has_select_for_no_key_update
        rows = rows.select_for_update(no_key=no_key)
    for row in rows.values_list(*[field.attname for field in fields]):
        return {name: _sendable(value) for name, value in zip(names, row, strict=True)}
    return None


def pk_of(model: AnyModel, instance: models.Model) -> Any:
    """Return the key that an instance of a model, or of a child of it, has in *its* table."""
    return getattr(instance, model._meta.pk.attname)


def field_of(model: AnyModel, name: str) -> Any:
    return model._meta.get_field(name)


def many_to_many_of(model: AnyModel, through: AnyModel) -> Any:
    """Return the field of a model that goes through a table."""
    fields = model._meta.many_to_many
    return next(field for field in fields if field.remote_field.through is through)


def related_pks(field: Any, instance: models.Model, using: str, *, reverse: bool) -> list[Any]:
    """Return the keys on the other side of a many-to-many field, as its table has them.

    ``reverse``: the instance is on the side that the field points to.
    """
    here, there = field.m2m_field_name(), field.m2m_reverse_field_name()
    if reverse:
        here, there = there, here
    pk = pk_of(field.related_model if reverse else field.model, instance)
    rows = field.remote_field.through._base_manager.using(using).filter(**{here: pk})
    return list(rows.order_by(there).values_list(there, flat=True))


def plain(field: Any, value: Any) -> Any:
    """Return a key as the database would give it back: ``"5"`` in an integer field is 5."""
    if isinstance(value, tuple):
        return list(value)
    target = field.target_field if field.is_relation else field
    return target.to_python(value)


def _sendable(value: Any) -> Any:
    return value.name if isinstance(value, FieldFile) else value


def _is_stored(field: Any, value: Any) -> bool:
    """Is this Python value beyond doubt what reading the row would give?"""
    if getattr(field, "generated", False):
        return False
    if value is None:
        return True
    target = field
    while target.is_relation:
        target = target.target_field
    if not type(target).__module__.startswith("django.db.models.fields"):
        return False
    same = _SAME.get(type(value))
    return same is not None and same(target, value)


_TEXT = (models.CharField, models.TextField)
_SAME: dict[type, Callable[[Any, Any], bool]] = {
    bool: lambda field, value: isinstance(field, models.BooleanField),
    int: lambda field, value: isinstance(field, (models.IntegerField, models.AutoField)),
    str: lambda field, value: isinstance(field, _TEXT),
    float: lambda field, value: isinstance(field, models.FloatField),
    uuid.UUID: lambda field, value: isinstance(field, models.UUIDField),
    decimal.Decimal: lambda field, value: (
        isinstance(field, models.DecimalField)
        and value.is_finite()
        and value.as_tuple().exponent == -field.decimal_places
    ),
    datetime.date: lambda field, value: type(field) is models.DateField,
    datetime.datetime: lambda field, value: (
        type(field) is models.DateTimeField
        and settings.USE_TZ
        and value.utcoffset() == datetime.timedelta(0)
    ),
}
