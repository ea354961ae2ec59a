"""Settings of the example project, which is also what the test suite runs.

Environment: ``TESTPROJECT_DB`` (path of the SQLite file), ``TESTPROJECT_POSTGRES`` (a libpq URI to
use instead), ``TESTPROJECT_REDIS`` (a URL: sessions are kept there), ``TESTPROJECT_BUS`` (JSON that
is merged into ``FLOSSE_BUS["default"]``), ``TESTPROJECT_DEBUG`` (0 or 1).
"""

import json
import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import django

BASE_DIR = Path(__file__).resolve().parent

# A demonstration on the loopback address: nothing here is secret.
SECRET_KEY = "not-a-secret-this-project-is-an-example"
DEBUG = os.environ.get("TESTPROJECT_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["*"]
SILENCED_SYSTEM_CHECKS = ["flosse_bus.W001"]  # one server process publishes and streams

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "flosse_bus",
    "testproject.shop",
]
MIDDLEWARE = [
    "flosse_bus.middleware.BusMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

FLOSSE_BUS = {
    "default": {
        "BACKEND": "flosse_bus.backends.memory.MemoryBackend",
        "PUBLIC_TOPICS": ["orders", "orders.*", "customers", "news", "load.**"],
        "RETRY": 1000,
        **json.loads(os.environ.get("TESTPROJECT_BUS", "{}")),
    }
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TESTPROJECT_DB", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }
}
if django.VERSION >= (5, 1):
    # Admin, traffic and orders write at the same time: take the write lock at BEGIN and wait for
    # it, instead of failing half-way through.
    DATABASES["default"]["OPTIONS"] |= {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
if "TESTPROJECT_POSTGRES" in os.environ:
    uri = urlsplit(os.environ["TESTPROJECT_POSTGRES"])
    query = dict(parse_qsl(uri.query))
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": uri.path.removeprefix("/"),
        "USER": unquote(uri.username or ""),
        "PASSWORD": unquote(uri.password or ""),
        "HOST": query.get("host") or uri.hostname or "",
        "PORT": query.get("port") or uri.port or "",
        "CONN_MAX_AGE": None,
    }
    INSTALLED_APPS.append("flosse_bus.contrib.postgres")
if "TESTPROJECT_REDIS" in os.environ:
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": os.environ["TESTPROJECT_REDIS"],
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "board"
LOGOUT_REDIRECT_URL = "board"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick tests, no secrets
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"flosse_bus": {"handlers": ["console"], "level": "INFO", "propagate": True}},
}
