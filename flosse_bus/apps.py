"""The Django app: finds topics.py files, wires signals, registers checks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_out
from django.core import checks
from django.utils.module_loading import autodiscover_modules


class FlosseBusConfig(AppConfig):
    name = "flosse_bus"
    verbose_name = "Event bus"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import changes
        from . import checks as own

        autodiscover_modules("topics")
        changes.connect_all()
        for check in (
            own.check_buses,
            own.check_shared_logs,
            own.check_middleware,
            own.check_publications,
            own.check_authorisers,
        ):
            checks.register(check, "flosse_bus")
        user_logged_out.connect(_end_streams_of, dispatch_uid="flosse_bus.logout")


def _end_streams_of(*, request: Any, **kwargs: Any) -> None:
    """End the streams of a session that logs out: whoever returns is asked anew.

    Streams in other processes notice when their permission is next checked.
    """
    from .bus import buses
    from .transport import opened

    key = getattr(getattr(request, "session", None), "session_key", None)
    if key is None:
        return
    for bus in buses.opened():
        for place in bus.streams.of_session(key):
            place.withdraw("logged out")
    opened.end_session(key, "logged out")
