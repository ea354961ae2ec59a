"""The example project, and under ``/stock/`` the same by Django's own ASGI application."""

from __future__ import annotations

from django.core.asgi import get_asgi_application

from testproject.asgi import application as project

stock = get_asgi_application()


async def application(scope, receive, send):
    before, mark, path = scope.get("path", "").partition("/stock/")
    if not mark or before:
        await project(scope, receive, send)
        return
    path = f"/{path}"
    await stock({**scope, "path": path, "raw_path": path.encode()}, receive, send)
