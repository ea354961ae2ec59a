"""Django's settings of every peer. ``BENCH_URLS`` says whose routes.

With ``BENCH_POSTGRES`` (a libpq URI) there are sessions and users in PostgreSQL, and every stream
must be logged in. Without it anyone may read, and there is no database at all, or with
``BENCH_SQLITE`` one in memory, for transactions. ``BENCH_GRIP`` is where Pushpin takes events.
"""

import os
from urllib.parse import urlsplit

SECRET_KEY = "not-a-secret-this-is-a-benchmark"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = os.environ.get("BENCH_URLS", "benchmarks.peers.ours_urls")
LOGIN = "BENCH_POSTGRES" in os.environ
SILENCED_SYSTEM_CHECKS = ["flosse_bus.W001"]  # one process publishes and streams

INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
if "ours" in ROOT_URLCONF:
    INSTALLED_APPS.append("flosse_bus")
    MIDDLEWARE.insert(0, "flosse_bus.middleware.BusMiddleware")
if "eventstream" in ROOT_URLCONF:
    INSTALLED_APPS.append("django_eventstream")
if "bolt" in ROOT_URLCONF:
    INSTALLED_APPS.append("django_bolt")
    BOLT_API = ["benchmarks.peers.bolt:api"]
if "BENCH_GRIP" in os.environ:
    MIDDLEWARE.insert(0, "django_grip.GripMiddleware")
    GRIP_URL = os.environ["BENCH_GRIP"]
if "BENCH_SQLITE" in os.environ:
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
if LOGIN:
    uri = urlsplit(os.environ["BENCH_POSTGRES"])
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": uri.path.removeprefix("/"),
            "USER": uri.username,
            "HOST": uri.hostname,
            "PORT": uri.port,
        }
    }
    INSTALLED_APPS.append("django.contrib.sessions")
    MIDDLEWARE += [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]

FLOSSE_BUS = {"default": {"PUBLIC_TOPICS": ["load.*"]}}

# Generous: by default a channel holds 100 messages, and group_send drops what is over; and the
# driver's pool has 100 connections, over which streams are refused.
redis = {"address": os.environ.get("BENCH_REDIS", ""), "max_connections": 10000}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [redis], "capacity": 10000},
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
