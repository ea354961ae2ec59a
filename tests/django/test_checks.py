from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from flosse_bus import topic
from flosse_bus.topics import authorisers

BUS, CORS = "flosse_bus.middleware.BusMiddleware", "corsheaders.middleware.CorsMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
LISTED = {"default": {"ALLOWED_ORIGINS": ["https://app.example.com"]}}


def found(settings, **changes):
    for name, value in changes.items():
        setattr(settings, name, value)
    settings.SILENCED_SYSTEM_CHECKS = []
    return {message.id: message.msg for message in run_checks(tags=["flosse_bus"])}


def test_a_sound_project_has_nothing_to_hear(settings):
    assert found(settings, DEBUG=True) == {}


@pytest.mark.parametrize(
    ("changes", "id", "message"),
    [
        ({"FLOSSE_BUS": {"default": {"HISTORY": 1}}}, "flosse_bus.E001", "['HISTORY']: no such setting"),
        ({"FLOSSE_BUS": {"default": {"BACKEND": "x.Y"}}}, "flosse_bus.E001", "['BACKEND']"),
        ({"FLOSSE_BUS": "memory"}, "flosse_bus.E001", "FLOSSE_BUS: expected a dict"),
        ({"FLOSSE_BUS": {"audit": {}}}, "flosse_bus.E001", "there must be a bus 'default'"),
        ({"DEBUG": False}, "flosse_bus.W001", "MemoryBackend reaches only"),
        ({"MIDDLEWARE": []}, "flosse_bus.W002", "MIDDLEWARE does not hold"),
        ({"MIDDLEWARE": [BUS, GZIP, BUS]}, "flosse_bus.W002", "2 times"),
        ({"MIDDLEWARE": [GZIP, BUS]}, "flosse_bus.W002", "GZipMiddleware' comes before"),
        ({"MIDDLEWARE": (CORS, BUS), "FLOSSE_BUS": LISTED}, "flosse_bus.W002", "comes before"),
        ({"FLOSSE_BUS": {"default": {"PUBLIC_TOPICS": ["**"]}}}, "flosse_bus.W003", "is never asked"),
    ],
)  # fmt: skip
def test_what_is_found(settings, changes, id, message):
    settings.DEBUG = True
    assert message in found(settings, **changes)[id]


@pytest.mark.parametrize(
    "changes",
    [
        {"MIDDLEWARE": ["django.middleware.http.ConditionalGetMiddleware", BUS, GZIP]},
        {"MIDDLEWARE": ["django.middleware.security.SecurityMiddleware", BUS]},
        {"MIDDLEWARE": [BUS, CORS], "FLOSSE_BUS": LISTED},
        {"MIDDLEWARE": [CORS, BUS]},  # no bus lists an origin
    ],
)
def test_places_of_the_middleware_that_do_no_harm(settings, changes):
    assert found(settings, DEBUG=True, **changes) == {}


def test_an_authoriser_is_shadowed_only_if_every_bus_makes_its_topic_public(settings):
    def function(request, n): ...

    topic("x.{n}")(function)
    try:
        both = {"default": {"PUBLIC_TOPICS": ["x.*"]}, "audit": {}}
        assert found(settings, DEBUG=True, FLOSSE_BUS=both) == {}
        both["audit"] = {"PUBLIC_TOPICS": ["x.**"]}
        assert "'x.{n}'" in found(settings, FLOSSE_BUS=both)["flosse_bus.W003"]
    finally:
        authorisers.unregister(function)


def test_manage_py_check_fails_on_a_bad_setting(settings):
    settings.FLOSSE_BUS = {"default": {"RETRY": "soon"}}
    with pytest.raises(SystemCheckError, match=r"FLOSSE_BUS\['default'\]\['RETRY'\]"):
        call_command("check")
