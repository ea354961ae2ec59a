"""The example project's settings with the generator views of the suite."""

from testproject.settings import *  # noqa: F403  # because settings are extended that way

ROOT_URLCONF = "tests.lab.generators"
MIDDLEWARE = [
    *MIDDLEWARE[:1],  # noqa: F405  # reason: as above
    "tests.lab.middleware.in_german",
    *MIDDLEWARE[1:],  # noqa: F405  # reason: as above
]
