"""``publish_changes``: models publish by themselves when their rows change."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, models
from django.db.models import signals

from .bus import Item, buses
from .conf import DEFAULT_ALIAS
from .exceptions import BackendUnavailable, FlosseBusError, InvalidTopic
from .former import Former, fetch_locked, watch
from .publications import ACTIONS, AnyModel, Publication
from .rows import Values, field_of, many_to_many_of, pk_of, plain, related_pks, values_of
from .topics import fill, placeholders

logger = logging.getLogger("flosse_bus")

#: Events that ``publish_bulk`` sends in one call.
BULK = 1000

ModelT = TypeVar("ModelT", bound=models.Model)

_publications: dict[AnyModel, list[Publication]] = {}
_suppressed: ContextVar[tuple[AnyModel, ...]] = ContextVar("flosse_bus_suppressed", default=())


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

    A row that an update moves between topics is heard of in both, with its new values. A topic
    whose placeholder is null (a foreign key that is not set) is left out.

    Raises:
        TypeError: not a model, or a str where a list belongs.
        ImproperlyConfigured: an abstract model or an unknown action. What needs the other models
            to be loaded (topics, fields) is found by ``manage.py check``.
    """

    def register(model: type[ModelT]) -> type[ModelT]:
        publication = Publication.of(model, topics, fields, actions, bus)
        _publications.setdefault(model, []).append(publication)
        if apps.models_ready:
            _connect(model)
        return model

    return register if model is None else register(model)


def publish_bulk(
    objects: models.QuerySet[Any] | Iterable[models.Model],
    action: str,
    *,
    update_fields: Collection[str] | None = None,
) -> int:
    """Publish what ``bulk_create()``, ``update()`` and friends do, which send no signals.

    Call it with the rows as they are after the change (before it for ``"deleted"``). What
    ``publish_changes`` says about actions, and ``suppress_changes``, holds here too. Returns how
    many rows were published.

    Raises:
        ValueError: not one of the actions.
        ImproperlyConfigured: ``publish_changes`` has not been told of the model.
    """
    if action not in ACTIONS:
        raise ValueError(f"action: expected one of {', '.join(ACTIONS)}, not {action!r}.")
    if isinstance(objects, models.QuerySet):
        _require(objects.model)
        objects = objects.iterator(chunk_size=500)
    count = 0
    waiting: dict[tuple[str, str], list[Item]] = {}
    for instance in objects:
        _require(type(instance))
        using = instance._state.db or "default"
        active = _active(type(instance), action)
        for publication in active:
            values = values_of(publication, instance, using)
            items = waiting.setdefault((publication.bus, using), [])
            items += _items(publication, action, instance, [values], update_fields)
            if len(items) >= BULK:
                _send(publication.bus, using, items)
                items.clear()
        count += bool(active)
    for (bus, using), items in waiting.items():
        _send(bus, using, items)
    return count


@contextlib.contextmanager
def suppress_changes(*suppressed: AnyModel) -> Iterator[None]:
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


def unpublish_changes(model: AnyModel) -> None:
    """Take back what ``publish_changes`` was told of a model."""
    _publications.pop(model, None)


def connect_all() -> None:
    """Connect what was registered while models were loading. Called once they all are."""
    for model in _publications:
        _connect(model)


def _connect(model: AnyModel) -> None:
    # Signals name the class that was saved: a proxy or a child is this model's row as well. The
    # deletion of a child sends one signal for each of its tables, so there only proxies matter.
    for sender in (m for m in apps.get_models() if issubclass(m, model)):
        watch(sender)
        pairs: list[tuple[Any, Any, Any]] = [
            (signals.pre_save, _before_save, sender),
            (signals.post_save, _after_save, sender),
        ]
        if sender._meta.concrete_model is model:
            pairs += [
                (signals.pre_delete, _before_delete, sender),
                (signals.post_delete, _after_delete, sender),
            ]
        for field in sender._meta.many_to_many:
            pairs.append((signals.m2m_changed, _m2m_changed, field.remote_field.through))
        for signal, receiver, about in pairs:
            uid = f"flosse_bus.{receiver.__name__}"
            signal.connect(receiver, sender=about, dispatch_uid=uid)


def _of_row(model: AnyModel) -> list[Publication]:
    """Return what is published of a row of this class: its own and its parents' publications."""
    concrete = model._meta.concrete_model or model
    parents = concrete._meta.get_parent_list()
    return [p for one in (concrete, *parents) for p in _publications.get(one, ())]


def _of_table(model: AnyModel) -> list[Publication]:
    return _publications.get(model._meta.concrete_model or model, [])


def _active(model: AnyModel, action: str) -> list[Publication]:
    return [p for p in _of_row(model) if action in p.actions and not _is_suppressed(model)]


def _is_suppressed(model: AnyModel) -> bool:
    return any(issubclass(model, suppressed) for suppressed in _suppressed.get())


def _require(model: AnyModel) -> None:
    if not _of_row(model):
        raise ImproperlyConfigured(
            f"publish_bulk: publish_changes has not been told of {model._meta.label}."
        )


# Receivers. What is known before a change is pushed in the "before" signal and popped in the
# "after": always one for one, so that nested saves and saves that failed do not mix.


def _before_save(
    sender: AnyModel,
    instance: models.Model,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    if raw:
        return
    for publication in _of_row(sender):
        before = None
        moving = _saved(publication, publication.moving, update_fields)
        if moving and _may_exist(instance, publication.model) and not _is_suppressed(sender):
            before = Former(publication.model, using, moving)
            before.read_later(instance)
        _push(instance, publication, before)


def _after_save(
    sender: AnyModel,
    instance: models.Model,
    created: bool,
    raw: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    if raw:
        _push(instance, "raw", True)
        return
    action = "created" if created else "updated"
    active = _active(sender, action)
    for publication in _of_row(sender):
        former = _pop(instance, publication)
        before = former.values if former is not None else None
        if publication not in active:
            continue
        saved = _saved(publication, publication.sources, update_fields)
        reload = [name for name in publication.sources if name not in saved]
        now = values_of(publication, instance, using, reload=reload)
        states = [now] if created or before is None else [{**now, **before}, now]
        _publish(publication, action, instance, using, states, update_fields)


def _before_delete(sender: AnyModel, instance: models.Model, using: str, **kwargs: Any) -> None:
    # The row as it is stored: the instance that was deleted, and its parents made from it, may
    # have been changed since, or loaded in part. Those of a queryset or a cascade are fresh.
    stale = isinstance(kwargs.get("origin"), type(instance)) or instance.get_deferred_fields()
    for publication in _of_table(sender):
        values = None
        if "deleted" in publication.actions and not _is_suppressed(sender):
            reload: Sequence[str] = publication.sources if stale else ()
            known: Values = {}
            if stale and publication.moving:
                pk = pk_of(publication.model, instance)
                known = fetch_locked(publication.model, pk, using, reload) or {}
                reload = ()
            values = values_of(publication, instance, using, reload=reload, known=known)
        _push(instance, publication, values)


def _after_delete(sender: AnyModel, instance: models.Model, using: str, **kwargs: Any) -> None:
    for publication in _of_table(sender):
        values = _pop(instance, publication)
        if values is not None:
            _publish(publication, "deleted", instance, using, [values], None)


def _m2m_changed(
    sender: AnyModel,
    instance: models.Model,
    action: str,
    reverse: bool,
    model: AnyModel,
    pk_set: set[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    field = many_to_many_of(model if reverse else type(instance), sender)
    both = getattr(field.remote_field, "symmetrical", False)
    if action == "pre_clear" and (reverse or both):
        _push(instance, sender, related_pks(field, instance, using, reverse=True))
    if action not in ("post_add", "post_remove", "post_clear"):
        return
    if action == "post_clear" and (reverse or both):
        pk_set = set(_pop(instance, sender) or ())
    if pk_set is not None and not pk_set:
        return
    if _peek(instance, "raw") and not reverse:
        return  # loaddata: the rows of a fixture are no news, nor are their relations
    changed = [] if reverse else [instance]
    if reverse or both:
        changed += model._base_manager.using(using).filter(pk__in=pk_set or ()).order_by("pk")
    for one in changed:
        for publication in _active(type(one), "updated"):
            values = values_of(publication, one, using, reload=publication.sources)
            _publish(publication, "updated", one, using, [values], [field.name])


def _may_exist(instance: models.Model, model: AnyModel) -> bool:
    pk = pk_of(model, instance)
    if pk is None or hasattr(pk, "resolve_expression"):
        return False
    # A new instance whose pk has a default is inserted, whatever its value, not updated.
    return not (instance._state.adding and model._meta.pk.has_default())


def _saved(
    publication: Publication, names: Iterable[str], update_fields: Collection[str] | None
) -> list[str]:
    """Return those of the fields that a save with ``update_fields`` writes."""
    if update_fields is None:
        return list(names)
    saved = []
    for name in names:
        field = field_of(publication.model, name)
        if not {field.name, field.attname}.isdisjoint(update_fields):
            saved.append(name)
    return saved


def _push(instance: models.Model, key: object, value: Any) -> None:
    # On the instance's own state: seen by every thread that the save goes through, and gone with
    # it. A save that fails leaves its value behind, below whatever comes later.
    stacks = instance._state.__dict__.setdefault("flosse_bus", {})
    stack = stacks.setdefault(key, [])
    stack.append(value)
    del stack[:-8]


def _pop(instance: models.Model, key: object) -> Any:
    stacks = instance._state.__dict__.get("flosse_bus", {})
    stack = stacks.get(key)
    if not stack:
        return None
    value = stack.pop()
    if not stack:
        del stacks[key]  # or it would be pickled with the instance
    return value


def _peek(instance: models.Model, key: object) -> bool:
    return bool(instance._state.__dict__.get("flosse_bus", {}).get(key))


def _publish(
    publication: Publication,
    action: str,
    instance: models.Model,
    using: str,
    states: Sequence[Values],
    update_fields: Collection[str] | None,
) -> None:
    """Publish the last of ``states`` to the topics of all of them."""
    items = _items(publication, action, instance, states, update_fields)
    _send(publication.bus, using, items)


def _items(
    publication: Publication,
    action: str,
    instance: models.Model,
    states: Sequence[Values],
    update_fields: Collection[str] | None,
) -> list[Item]:
    meta = publication.model._meta
    pk = plain(meta.pk, pk_of(publication.model, instance))
    data: dict[str, Any] = {
        "action": action,
        "model": meta.label_lower,
        "pk": pk,
        "fields": {name: states[-1].get(name) for name in publication.fields},
    }
    if update_fields is not None:
        data["update_fields"] = sorted(update_fields)
    name = f"{meta.label_lower}.{action}"
    return [(topic, data, name) for topic in _topics(publication, pk, states)]


def _send(bus: str, using: str, items: Sequence[Item]) -> None:
    # The rows are saved, or will be: failing now would undo nothing, or undo what was right.
    if not items:
        return
    try:
        buses[bus].publish_many(items, using=using)
        return
    except Error:
        # The transaction is lost. Its rows are not saved, whatever is made of the error here, and
        # Django would end it without a word.
        raise
    except Exception as error:
        refused = isinstance(error, FlosseBusError) and not isinstance(error, BackendUnavailable)
        if len(items) == 1 or not refused:
            names = ", ".join(dict.fromkeys(str(item[-1]) for item in items))
            logger.exception("%s was not published (%d events)", names, len(items))
            return
    # One of them is at fault, or all together are too large. Nothing was sent.
    half = len(items) // 2
    _send(bus, using, items[:half])
    _send(bus, using, items[half:])


def _topics(publication: Publication, pk: Any, states: Sequence[Values]) -> list[str]:
    topics: dict[str, None] = {}
    for values in states:
        known = {**values, "pk": pk}
        for template in publication.topics:
            if any(known.get(name) is None for name in placeholders(template)):
                continue
            try:
                topics[fill(template, known)] = None
            except InvalidTopic as error:
                logger.error("change of %s not published: %s", publication.label, error)
    return list(topics)
