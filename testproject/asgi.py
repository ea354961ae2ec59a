"""ASGI entry point: streams without threads, static files and, for the demo, some traffic."""

import os

from django.conf import settings

from flosse_bus.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")

application = get_asgi_application()

if settings.DEBUG:
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

    application = ASGIStaticFilesHandler(application)

if "TESTPROJECT_TRAFFIC" in os.environ:
    from testproject.shop import traffic

    traffic.start(rate=float(os.environ["TESTPROJECT_TRAFFIC"]))
