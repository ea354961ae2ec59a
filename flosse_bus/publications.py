"""What ``publish_changes`` was told about a model, and whether it can work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.checks import CheckMessage, Warning
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models

from .exceptions import InvalidTopic
from .topics import placeholders, separators

ACTIONS = ("created", "updated", "deleted")

AnyModel = type[models.Model]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Publication:
    """Which topics hear what about the rows of a model."""

    model: AnyModel
    topics: tuple[str, ...]
    fields: tuple[str, ...]
    actions: tuple[str, ...]
    bus: str

    @classmethod
    def of(
        cls,
        model: AnyModel,
        topics: Sequence[str] | None,
        fields: Sequence[str],
        actions: Sequence[str],
        bus: str,
    ) -> Publication:
        """Check what can be checked while models are still loading."""
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
        publication = cls(
            model=model,
            topics=(model._meta.label_lower,) if topics is None else tuple(topics),
            fields=tuple(fields),
            actions=tuple(actions),
            bus=bus,
        )
        for template in publication.topics:
            try:
                placeholders(template)
            except InvalidTopic as error:
                raise ImproperlyConfigured(f"{where}: topics: {error}") from error
        return publication

    @property
    def label(self) -> str:
        return self.model._meta.label

    @property
    def named(self) -> tuple[str, ...]:
        """The fields that topics name, ``pk`` left out."""
        names = (name for template in self.topics for name in placeholders(template))
        return tuple(dict.fromkeys(name for name in names if name != "pk"))

    @property
    def moving(self) -> tuple[str, ...]:
        """The fields that decide about topics and can change while the row stays the same."""
        pk = self.model._meta.pk
        return tuple(name for name in self.named if name not in (pk.name, pk.attname))

    @property
    def sources(self) -> tuple[str, ...]:
        """The concrete fields that topics and data need, each once."""
        many = {field.name for field in self.model._meta.many_to_many}
        return tuple(
            name for name in dict.fromkeys((*self.named, *self.fields)) if name not in many
        )

    def validate(self) -> None:
        """Raise ``ImproperlyConfigured`` if a topic or field cannot work. Needs loaded models."""
        where = f"publish_changes({self.model.__name__})"
        for index, template in enumerate(self.topics):
            names = placeholders(template)
            if "pk" in names and len(getattr(self.model._meta, "pk_fields", ())) > 1:
                raise ImproperlyConfigured(
                    f"{where}: topics[{index}] {template!r}: {{pk}} is composite; name its fields."
                )
            for name in names:
                if name != "pk":
                    self._check(name, f"{where}: topics[{index}] {template!r}", many=False)
            self._check_separators(template, f"{where}: topics[{index}] {template!r}")
        for name in self.fields:
            field = self._check(name, f"{where}: fields", many=True)
            if isinstance(field, models.BinaryField):
                raise ImproperlyConfigured(
                    f"{where}: fields: {name!r} is binary, which JSON cannot carry."
                )

    def warnings(self) -> list[CheckMessage]:
        """W004: rows that the database moves out of a topic without a signal."""
        found: list[CheckMessage] = []
        for name in self.moving:
            try:
                field = self.model._meta.get_field(name)
            except FieldDoesNotExist:
                continue  # validate() has said so
            rule = getattr(field.remote_field, "on_delete", None)
            if rule in (models.SET_NULL, models.SET_DEFAULT):
                found.append(
                    Warning(
                        f"publish_changes({self.model.__name__}): topics name {name!r}, which is "
                        f"on_delete={rule.__name__}: Django changes it without a signal, so "
                        "nothing is published then.",
                        hint="Publish to its topics where the other side is deleted, or use "
                        "another on_delete.",
                        obj=self.model,
                        id="flosse_bus.W004",
                    )
                )
        return found

    def _check_separators(self, template: str, where: str) -> None:
        """Refuse what could never be filled: each value holds what separates it from the next."""
        for segment in template.split("."):
            for name in placeholders(segment) if "-" in separators(segment) else ():
                field: Any = (
                    self.model._meta.pk if name == "pk" else self.model._meta.get_field(name)
                )
                while field.is_relation:
                    field = field.target_field
                if isinstance(field, (models.UUIDField, models.DateField)):
                    raise ImproperlyConfigured(
                        f"{where}: every value of {{{name}}} holds the '-' that separates it from "
                        "another. Give each a segment of its own."
                    )

    def _check(self, name: str, where: str, *, many: bool) -> models.Field[object, object]:
        try:
            field = self.model._meta.get_field(name)
        except FieldDoesNotExist:
            field = None
        if isinstance(field, models.Field) and (many or not field.many_to_many):
            return field
        known = [f.attname for f in self.model._meta.concrete_fields]
        if many:
            known += [f.name for f in self.model._meta.many_to_many]
        else:
            known.insert(0, "pk")
        raise ImproperlyConfigured(
            f"{where} names {name!r}, which is no field of {self.label} that can stand there. "
            f"Choose from: {', '.join(known)}."
        )
