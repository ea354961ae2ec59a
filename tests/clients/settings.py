"""The example project's settings with the pages of clients, which are shown in frames."""

from testproject.settings import *  # noqa: F403  # because settings are extended that way

ROOT_URLCONF = "tests.clients.urls"
MIDDLEWARE = MIDDLEWARE[:1]  # noqa: F405  # reason: as above
