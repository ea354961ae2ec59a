"""``publish_changes``: models publish by themselves when their rows change."""

from __future__ import annotations

import contextlib
import logging
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, overload

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models
from django.db.models import signals
from django.db.models.fields.files import FieldFile

from .bus import buses
from .conf import DEFAULT_ALIAS
from .exceptions import BackendUnavailable, InvalidTopic
from .topics import check_topic

logger = logging.getLogger("flosse_bus")

ACTIONS = ("created", "updated", "deleted")

ModelT = TypeVar("ModelT", bound=models.Model)
_AnyModel = type[models.Model]
_Values = dict[str, Any]

_suppressed: ContextVar[tuple[_AnyModel, ...]] = ContextVar("flosse_bus_suppressed", default=())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Publication:
    """What ``publish_changes`` was told about a model."""

    model: _AnyModel
    topics: tuple[str, ...]
    fields: tuple[str, ...]
    actions: tuple[str, ...]
    bus: str

    def validate(self) -> None:
        """Raise ``ImproperlyConfigured`` if a topic or field cannot work. Needs loaded models."""
        for index, template in enumerate(self.topics):
            where = f"{self._label}: topics[{index}] {template!r}"
            for name in placeholders(template):
                if name != "pk":
                    self._field(name, where, many=False)
            with _as_configuration_error(where):
                check_topic(_fill(template, dict.fromkeys(placeholders(template), "x")))
        for name in self.fields:
            field = self._field(name, f"{self._label}: fields", many=True)
            if isinstance(field, models.BinaryField):
                raise ImproperlyConfigured(
                    f"{self._label}: fields: {name!r} is binary, which JSON cannot carry."
                )

    @property
    def sources(self) -> tuple[str, ...]:
        """The concrete fields that topics and data need, each once."""
        named = [name for template in self.topics for name in placeholders(template)]
        many = many_to_many(self.model)
        return tuple(
            dict.fromkeys(name for name in (*named, *self.fields) if name not in (*many, "pk"))
        )

    @property
    def moving(self) -> tuple[str, ...]:
        """The fields that decide about topics and can change while the row stays the same."""
        pk = self.model._meta.pk
        named = [name for template in self.topics for name in placeholders(template)]
        return tuple(name for name in dict.fromkeys(named) if name not in ("pk", pk.name, pk.attname))

    @property
    def _label(self) -> str:
        return f"publish_changes({self.model.__name__})"

    def _field(self, name: str, where: str, *, many: bool) -> models.Field[Any, Any]:
        try:
            field = self.model._meta.get_field(name)
        except FieldDoesNotExist:
            field = None
        if isinstance(field, models.Field) and (many or not field.many_to_many):
            return field
        known = [f.attname for f in self.model._meta.concrete_fields]
        if many:
            known += many_to_many(self.model)
        raise ImproperlyConfigured(
            f"{where} names {name!r}, which is no field of {self.model._meta.label}. "
            f"Choose from: pk, {', '.join(known)}."
        )


_publications: dict[_AnyModel, list[Publication]] = {}


@overload
def publish_changes(
    model: type[ModelT],
    *,
    topics: Sequence[str] | None = ...,
    fields: Sequence[str] = ...,
    actions: Sequence[str] = ...,
    bus: str = ...,
) -> type[ModelT]: ...
@overload
def publish_changes(
    model: None = None,
    *,
    topics: Sequence[str] | None = ...,
    fields: Sequence[str] = ...,
    actions: Sequence[str] = ...,
    bus: str = ...,
) -> Callable[[type[ModelT]], type[ModelT]]: ...
def publish_changes(
    model: type[ModelT] | None = None,
    *,
    topics: Sequence[str] | None = None,
    fields: Sequence[str] = (),
    actions: Sequence[str] = ACTIONS,
    bus: str = DEFAULT_ALIAS,
) -> Any:
    """Publish an event whenever a row of a model is created, updated or deleted.

    A decorator for models, or a call for those of other apps. ``topics`` are templates with
    ``{pk}``, ``{field}`` or ``{fk_id}`` (default: the model's label, like ``"shop.order"``);
    ``fields`` is what of the row is sent besides its pk (default: nothing). The event is named
    like ``shop.order.updated``; its data are ``action``, ``model``, ``pk``, ``fields`` and, where
    only some fields were saved, ``update_fields``. It is sent when the transaction commits.

    A row that an update moves between topics is heard of in both. A topic with an empty
    placeholder (a null foreign key) is left out.

    Raises:
        TypeError: not a model, or a str where a list belongs.
        ImproperlyConfigured: an abstract model or an unknown action. What needs the other models
            to be loaded (topics, fields) is found by ``manage.py check``.
    """

    def register(model: type[ModelT]) -> type[ModelT]:
        _register(model, topics=topics, fields=fields, actions=actions, bus=bus)
        return model

    return register if model is None else register(model)


def publish_bulk(
    objects: models.QuerySet[Any] | Iterable[models.Model],
    action: str,
    *,
    update_fields: Collection[str] | None = None,
) -> int:
    """Publish what ``bulk_create()``, ``update()`` and friends do, which send no signals.

    Call it with the rows as they are after the change (before it for ``"deleted"``). Returns how
    many rows were published.

    Raises:
        ValueError: not one of the actions.
        ImproperlyConfigured: ``publish_changes`` has not been told of the model.
    """
    if action not in ACTIONS:
        raise ValueError(f"action: expected one of {', '.join(ACTIONS)}, not {action!r}.")
    if isinstance(objects, models.QuerySet):
        _publications_of(objects.model, required=True)
        objects = objects.iterator(chunk_size=500)
    count = 0
    for instance in objects:
        for publication in _publications_of(type(instance), required=True):
            using = instance._state.db or "default"
            values = _values(publication, instance, using, reload=())
            _publish(publication, action, instance, using, [values], update_fields=update_fields)
        count += 1
    return count


@contextlib.contextmanager
def suppress_changes(*suppressed: _AnyModel) -> Iterator[None]:
    """Publish no changes in this block: of these models, or of any.

    It holds for this thread or task and for what it awaits.
    """
    token = _suppressed.set((*_suppressed.get(), *(suppressed or (models.Model,))))
    try:
        yield
    finally:
        _suppressed.reset(token)


def publications() -> list[Publication]:
    """Return everything that ``publish_changes`` was told."""
    return [publication for group in _publications.values() for publication in group]


def unpublish_changes(model: _AnyModel) -> None:
    """Take back what ``publish_changes`` was told of a model."""
    _publications.pop(model, None)
    for sender in _senders(model):
        _connect(sender, disconnect=True)


def connect_all() -> None:
    """Connect every model and its proxies. Called once all models are loaded."""
    for model in _publications:
        for sender in _senders(model):
            _connect(sender)


# Registration


def _register(
    model: _AnyModel,
    *,
    topics: Sequence[str] | None,
    fields: Sequence[str],
    actions: Sequence[str],
    bus: str,
) -> None:
    if not (isinstance(model, type) and issubclass(model, models.Model)):
        raise TypeError(f"publish_changes: expected a model class, not {model!r}.")
    where = f"publish_changes({model.__name__})"
    if model._meta.abstract or model._meta.proxy:
        kind = "abstract" if model._meta.abstract else "a proxy"
        raise ImproperlyConfigured(f"{where}: it is {kind}. Register the concrete model.")
    for name, value in (("topics", topics), ("fields", fields), ("actions", actions)):
        if isinstance(value, str):
            raise TypeError(f"{where}: {name}: expected a list, not the str {value!r}.")
    for action in actions:
        if action not in ACTIONS:
            raise ImproperlyConfigured(
                f"{where}: actions: {action!r} is none of {', '.join(ACTIONS)}."
            )
    publication = Publication(
        model=model,
        topics=tuple([model._meta.label_lower] if topics is None else topics),
        fields=tuple(fields),
        actions=tuple(actions),
        bus=bus,
    )
    for template in publication.topics:
        with _as_configuration_error(f"{where}: topics: {template!r}"):
            placeholders(template)
    _publications.setdefault(model, []).append(publication)
    if apps.models_ready:
        for sender in _senders(model):
            _connect(sender)


def _senders(model: _AnyModel) -> list[_AnyModel]:
    # Signals name the proxy that was saved; for the other side it is the same row.
    proxies = [m for m in apps.get_models() if m._meta.proxy and m._meta.concrete_model is model]
    return [model, *proxies]


def _connect(sender: _AnyModel, *, disconnect: bool = False) -> None:
    pairs: list[tuple[Any, Any, Any]] = [
        (signals.pre_save, _before_save, sender),
        (signals.post_save, _after_save, sender),
        (signals.pre_delete, _before_delete, sender),
        (signals.post_delete, _after_delete, sender),
    ]
    for field in sender._meta.many_to_many:
        pairs.append((signals.m2m_changed, _m2m_changed, field.remote_field.through))
    for signal, receiver, about in pairs:
        uid = f"flosse_bus.{receiver.__name__}"
        if disconnect:
            signal.disconnect(sender=about, dispatch_uid=uid)
        else:
            signal.connect(receiver, sender=about, dispatch_uid=uid)


def _publications_of(model: _AnyModel, *, required: bool = False) -> list[Publication]:
    found = _publications.get(model._meta.concrete_model or model, [])
    if required and not found:
        raise ImproperlyConfigured(
            f"publish_bulk: publish_changes has not been told of {model._meta.label}."
        )
    return found


def _active(model: _AnyModel, action: str) -> list[Publication]:
    found = [p for p in _publications_of(model) if action in p.actions]
    if found and any(issubclass(model, suppressed) for suppressed in _suppressed.get()):
        return []
    return found


# Receivers


def _before_save(
    sender: _AnyModel,
    instance: models.Model,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    if raw or not _may_exist(instance):
        return
    for publication in _active(sender, "updated"):
        moving = _saved(publication, publication.moving, update_fields)
        if moving:
            _remember(instance, publication, _fetch(instance, using, moving))


def _after_save(
    sender: _AnyModel,
    instance: models.Model,
    created: bool,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    if raw:
        return
    action = "created" if created else "updated"
    for publication in _active(sender, action):
        saved = set(_saved(publication, publication.sources, update_fields))
        reload = [name for name in publication.sources if name not in saved]
        now = _values(publication, instance, using, reload=reload)
        before = _recall(instance, publication)
        states = [now] if created or before is None else [{**now, **before}, now]
        _publish(publication, action, instance, using, states, update_fields=update_fields)


def _before_delete(sender: _AnyModel, instance: models.Model, using: str, **kwargs: Any) -> None:
    # The row as it is stored: the instance may have been changed, or loaded in part.
    origin = kwargs.get("origin")
    for publication in _active(sender, "deleted"):
        stale = origin is None or origin is instance or instance.get_deferred_fields()
        reload = publication.sources if stale else ()
        _remember(instance, publication, _values(publication, instance, using, reload=reload))


def _after_delete(sender: _AnyModel, instance: models.Model, using: str, **kwargs: Any) -> None:
    for publication in _active(sender, "deleted"):
        values = _recall(instance, publication)
        if values is not None:
            _publish(publication, "deleted", instance, using, [values])


def _m2m_changed(
    sender: _AnyModel,
    instance: models.Model,
    action: str,
    reverse: bool,
    model: _AnyModel,
    pk_set: set[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    if action == "pre_clear" and reverse:
        _remember(instance, sender, _related_through(sender, instance, model, using))
    if action not in ("post_add", "post_remove", "post_clear") or (pk_set is not None and not pk_set):
        return
    changed: Iterable[models.Model]
    if not reverse:
        changed = [instance]
    else:
        pks = pk_set if pk_set is not None else _recall(instance, sender) or ()
        changed = model._base_manager.using(using).filter(pk__in=pks).order_by("pk")
    field = _many_to_many_by_through(instance if not reverse else model, sender)
    for one in changed:
        for publication in _active(type(one), "updated"):
            values = _values(publication, one, using, reload=publication.sources)
            _publish(publication, "updated", one, using, [values], update_fields=[field])


# Values


def many_to_many(model: _AnyModel) -> list[str]:
    return [field.name for field in model._meta.many_to_many]


def _many_to_many_by_through(model: models.Model | _AnyModel, through: _AnyModel) -> str:
    fields = model._meta.many_to_many
    return next(field.name for field in fields if field.remote_field.through is through)


def _related_through(
    through: _AnyModel, instance: models.Model, model: _AnyModel, using: str
) -> list[Any]:
    name = _many_to_many_by_through(model, through)
    rows = model._base_manager.using(using).filter(**{name: instance})
    return list(rows.values_list("pk", flat=True))


def _may_exist(instance: models.Model) -> bool:
    if instance.pk is None:
        return False
    # A new instance whose pk was made up by the field's default is inserted, not updated.
    return not (instance._state.adding and instance._meta.pk.has_default())


def _saved(
    publication: Publication, names: Iterable[str], update_fields: Collection[str] | None
) -> list[str]:
    """Return those of the fields that a save with ``update_fields`` writes."""
    if update_fields is None:
        return list(names)
    fields = [publication.model._meta.get_field(name) for name in names]
    return [
        name
        for name, field in zip(names, fields, strict=True)
        if field.name in update_fields or getattr(field, "attname", None) in update_fields
    ]


def _values(
    publication: Publication, instance: models.Model, using: str, *, reload: Iterable[str]
) -> _Values:
    """Return what the row's fields hold now; ``reload`` names those not to take from memory."""
    values: _Values = {}
    missing = list(reload)
    deferred = instance.get_deferred_fields()
    for name in publication.sources:
        field = publication.model._meta.get_field(name)
        assert isinstance(field, models.Field)  # validate() has seen to it
        if name in missing:
            continue
        if field.attname in deferred:
            missing.append(name)
            continue
        value = getattr(instance, field.attname)
        if hasattr(value, "resolve_expression"):  # F("stock") - 1: only the database knows
            missing.append(name)
        else:
            values[name] = _plain(field, value)
    if missing:
        values.update(_fetch(instance, using, missing) or {})
    for name in publication.fields:
        if name in many_to_many(publication.model):
            related = getattr(instance, name).using(using).order_by("pk")
            values[name] = list(related.values_list("pk", flat=True))
    return values


def _fetch(instance: models.Model, using: str, names: Sequence[str]) -> _Values | None:
    """Return stored values of the row, or ``None`` if there is no such row."""
    model = instance._meta.concrete_model
    assert model is not None
    fields = [model._meta.get_field(name) for name in names]
    attnames = [getattr(field, "attname", field.name) for field in fields]
    row = model._base_manager.using(using).filter(pk=instance.pk).values_list(*attnames).first()
    if row is None:
        return None
    return {
        name: _plain(field, value) for name, field, value in zip(names, fields, row, strict=True)
    }


def _plain(field: Any, value: Any) -> Any:
    """Return a value as the database would give it back: ``"5"`` in an integer field is 5."""
    if isinstance(value, FieldFile):
        return value.name
    if value is None:
        return None
    target = field.target_field if field.is_relation else field
    return target.to_python(value)


def _remember(instance: models.Model, key: object, value: Any) -> None:
    # On the instance's own state: it lives as long as the save or delete, whatever thread.
    kept = instance._state.__dict__.setdefault("flosse_bus", {})
    kept[key] = value


def _recall(instance: models.Model, key: object) -> Any:
    return instance._state.__dict__.get("flosse_bus", {}).pop(key, None)


# Publishing


@lru_cache(maxsize=1024)
def placeholders(template: str) -> tuple[str, ...]:
    """Return the field names in a topic template.

    Raises:
        InvalidTopic: it is no template, or a placeholder is more than a name.
    """
    if not isinstance(template, str):
        raise InvalidTopic(f"{template!r} is not a topic template: expected a str.")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidTopic(f"{template!r} is not a topic template: {error}.") from None
    names = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise InvalidTopic(
                f"{template!r}: {{{name}}} is not a field's name. Write {{pk}} or {{customer_id}}."
            )
        names.append(name)
    return tuple(names)


def _fill(template: str, values: _Values) -> str:
    return template.format_map(values)


def _publish(
    publication: Publication,
    action: str,
    instance: models.Model,
    using: str,
    states: Sequence[_Values],
    *,
    update_fields: Collection[str] | None = None,
) -> None:
    """Publish the last of ``states`` to the topics of all of them."""
    meta = publication.model._meta
    values = states[-1]
    data: dict[str, Any] = {
        "action": action,
        "model": meta.label_lower,
        "pk": instance.pk,
        "fields": {name: values.get(name) for name in publication.fields},
    }
    if update_fields is not None:
        data["update_fields"] = sorted(update_fields)
    for topic in _topics(publication, instance, states):
        try:
            buses[publication.bus].publish(
                topic, data, event=f"{meta.label_lower}.{action}", using=using
            )
        except (BackendUnavailable, InvalidTopic):
            # The row is saved: failing now would undo nothing, and the other topics must hear.
            logger.exception("%s of %s was not published", action, meta.label)


def _topics(
    publication: Publication, instance: models.Model, states: Sequence[_Values]
) -> list[str]:
    topics: dict[str, None] = {}
    for values in states:
        known = {**values, "pk": instance.pk}
        for template in publication.topics:
            if all(known.get(name) is not None for name in placeholders(template)):
                topics[_fill(template, known)] = None
    return list(topics)


@contextlib.contextmanager
def _as_configuration_error(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidTopic as error:
        raise ImproperlyConfigured(f"{where}: {error}") from error
