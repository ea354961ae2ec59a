"""The example project's settings, with apps that only the suite needs."""

from testproject.settings import *  # noqa: F403  # because settings are extended that way

INSTALLED_APPS = [
    *INSTALLED_APPS,  # noqa: F405  # reason: as above
    "tests.lab",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "flosse_bus.contrib.drf",
]
REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
LOGGING = {}
