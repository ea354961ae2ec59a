"""The site of the clients: the bus, and pages for those that live in browsers."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.urls import include, path

from flosse_bus import bus

DRIVERS = Path(__file__).with_name("drivers")


def page(request, name):
    """A page for one client: it takes its orders from the page that shows it."""
    return HttpResponse((DRIVERS / "page.html").read_text())


def script(request, name):
    return _file(DRIVERS, name)


def package(request, name):
    """A file of an npm package. Imports of modules may leave out its ending, or name a folder."""
    if (Path(os.environ["CLIENTS_PACKAGES"]) / name / "index.js").is_file():
        return HttpResponseRedirect(f"{request.path}/index.js")
    return _file(Path(os.environ["CLIENTS_PACKAGES"]), name)


def _file(root, name):
    for file in (root / name, root / f"{name}.js"):
        if file.is_file():
            kind = mimetypes.guess_type(file.name)[0] or "text/javascript"
            return HttpResponse(file.read_bytes(), content_type=kind)
    raise Http404(name)


def cursor(request):
    """Where a page begins that has just fetched its content."""
    return HttpResponse(bus.cursor(), content_type="text/plain")


urlpatterns = [
    path("cursor/", cursor),
    path("events/", include("flosse_bus.urls")),
    path("client/<path:name>/", page),
    path("script/<path:name>", script),
    path("package/<path:name>", package),
]
