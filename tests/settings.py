"""The example project's settings, with an app of models that only the suite needs."""

from testproject.settings import *  # noqa: F403  # because settings are extended that way

INSTALLED_APPS = [*INSTALLED_APPS, "tests.lab"]  # noqa: F405  # reason: as above
LOGGING = {}
