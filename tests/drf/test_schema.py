"""What drf-spectacular makes of an API with streams."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from django.core.management import call_command

from tests.processes import ROOT

ERRORS = {
    status: {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"detail": {"type": "string"}},
                "required": ["detail"],
            }
        }
    }
    for status in ("401", "403", "429", "503")
}


@pytest.fixture
def paths(tmp_path):
    """Return the paths of a schema that is valid, and of which nothing had to be guessed."""
    made = tmp_path / "schema.yml"
    call_command(
        "spectacular", validate=True, fail_on_warn=True, urlconf="tests.drf.urls", file=str(made)
    )
    return yaml.safe_load(made.read_text())["paths"]


@pytest.mark.parametrize(
    "path",
    [
        "counting/",
        "acounting/",
        "rooms/{room}/",
        "named/",
        "users/names/",
        "users/{id}/events/",
        "users/{id}/anames/",
    ],
)
def test_a_stream(paths, path):
    assert list(paths[f"/api/{path}"]) == ["get"]
    operation = paths[f"/api/{path}"]["get"]
    responses = operation["responses"]
    assert responses["200"]["content"] == {"text/event-stream": {"schema": {"type": "string"}}}
    assert {status: responses[status]["content"] for status in ERRORS} == ERRORS
    assert {(p["in"], p["name"]) for p in operation["parameters"]} >= {("header", "Last-Event-ID")}


def test_the_rest_of_a_viewset_is_as_ever(paths):
    for path, many in (("users/", True), ("users/{id}/", False)):
        operation = paths[f"/api/{path}"]["get"]
        [schema] = operation["responses"]["200"]["content"].values()
        assert ("items" in schema["schema"]) is many
        names = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert "Last-Event-ID" not in names


def test_what_the_project_says_counts_more(paths):
    operation = paths["/api/users/described/"]["get"]
    assert operation["description"] == "Described otherwise."
    assert list(operation["responses"]) == ["200"]


@pytest.mark.parametrize(
    ("apps", "imported", "absent"),
    [
        (
            ["rest_framework", "flosse_bus.contrib.drf"],
            "flosse_bus.contrib.drf.views, flosse_bus.contrib.drf.actions",
            "drf_spectacular",
        ),
        (
            ["flosse_bus"],
            "flosse_bus.asgi, flosse_bus.urls, flosse_bus.middleware",
            "rest_framework",
        ),
    ],
)
def test_nothing_is_imported_where_it_is_not_used(apps, imported, absent):
    apps = ["django.contrib.auth", "django.contrib.contenttypes", *apps]
    code = (
        "import django, sys; from django.conf import settings;"
        f"settings.configure(INSTALLED_APPS={apps});"
        f"django.setup(); import {imported}; print({absent!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
