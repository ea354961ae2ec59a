"""A migration operation that runs scripts on PostgreSQL, and does nothing on other databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

from django.db import router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState


class RunScripts(Operation):
    """Run files of the ``sql`` folder, whose statements stand between lines of ``--``.

    ``ALTER`` instead of models: no model can say what these tables are. A published script never
    changes; what comes after it is a migration of its own.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, forwards: list[str], backwards: list[str]) -> None:
        self.forwards = forwards
        self.backwards = backwards

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        _run(self.forwards, app_label, schema_editor)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        _run(self.backwards, app_label, schema_editor)

    def describe(self) -> str:
        return f"Run {', '.join(self.forwards)}"


def _run(scripts: list[str], app_label: str, schema_editor: BaseDatabaseSchemaEditor) -> None:
    connection = schema_editor.connection
    if connection.vendor != "postgresql" or not router.allow_migrate(connection.alias, app_label):
        return
    for script in scripts:
        for statement in _statements(script):
            # Without parameters, not with none: "%" then stands for itself. One by one, because a
            # driver that prepares what it sends takes one statement at a time.
            schema_editor.execute(statement, params=None)


def _statements(script: str) -> Iterator[str]:
    folder = resources.files(__package__) / "sql"
    text = (folder / script).read_text(encoding="utf-8")
    return (part.strip() for part in re.split(r"(?m)^--$", text))
