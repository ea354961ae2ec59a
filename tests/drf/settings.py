"""The example project's settings with the API of the suite."""

from testproject.settings import *  # noqa: F403  # because settings are extended that way

INSTALLED_APPS = [
    *INSTALLED_APPS,  # noqa: F405  # reason: as above
    "rest_framework",
    "rest_framework.authtoken",
    "flosse_bus.contrib.drf",
]
ROOT_URLCONF = "tests.drf.urls"
