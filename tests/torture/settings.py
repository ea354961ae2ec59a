"""Settings of the processes here: ``TORTURE_BUS`` (JSON) and ``TORTURE_POSTGRES`` (a libpq URI).

No sessions, users or database beyond what the bus itself needs: what is broken is the bus.
"""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["flosse_bus"]
MIDDLEWARE = ["flosse_bus.middleware.BusMiddleware"]
ROOT_URLCONF = "tests.torture.urls"
USE_TZ = True
FLOSSE_BUS = {"default": json.loads(os.environ["TORTURE_BUS"])}
DATABASES = {}

if "TORTURE_POSTGRES" in os.environ:
    INSTALLED_APPS += ["flosse_bus.contrib.postgres"]
    _uri = urlsplit(os.environ["TORTURE_POSTGRES"])
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _uri.path.removeprefix("/"),
        "USER": _uri.username,
        "HOST": _uri.hostname,
        "PORT": _uri.port,
        "OPTIONS": {"connect_timeout": 5},
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"flosse_bus": {"handlers": ["console"], "level": "WARNING"}},
}
