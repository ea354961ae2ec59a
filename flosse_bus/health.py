"""The page for monitors and load balancers: do the backends answer, and do the streams keep up?"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, wait
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .bus import Bus, buses
from .cursor import Cursor
from .exceptions import BackendUnavailable
from .refusals import keep_from_admins
from .transport import opened, slots

logger = logging.getLogger("flosse_bus")

#: Seconds that the backends, all of them together, have to answer.
PATIENCE = 2.0
#: Seconds that listeners which are behind have to catch up, of all buses together.
CATCH_UP = 0.5


@never_cache
@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if every bus's backend answers, else 503; with how this process's streams do."""
    states = bus_states()
    ok = all(state["status"] == "ok" for state in states.values())
    body = {
        "status": "ok" if ok else "down",
        "buses": states,
        "generators": {"streams": opened.count(), "threads": slots.taken()},
    }
    response = JsonResponse(body, status=200 if ok else 503)
    if not ok:
        keep_from_admins(response)
    return response


def bus_states() -> dict[str, dict[str, Any]]:
    """Return the state of each bus by its alias. It blocks, but never for long."""
    questions = {bus: bus.pulse.ask() for bus in buses.all()}
    wait(questions.values(), PATIENCE)
    deadline = time.monotonic() + CATCH_UP
    return {
        bus.config.alias: _state(bus, _answer(bus, question), deadline)
        for bus, question in questions.items()
    }


def _answer(bus: Bus, question: Future[Cursor]) -> Cursor | None:
    why = f"no answer within {PATIENCE:g} s"
    if question.done():
        try:
            return question.result()
        except BackendUnavailable as error:
            why = str(error).removeprefix(f"bus {bus.config.alias!r}: ")
    if bus.hubs.notices.due("down, says health/"):
        logger.warning("bus %r is down, says health/: %s", bus.config.alias, why)
    return None


def _state(bus: Bus, tail: Cursor | None, deadline: float) -> dict[str, Any]:
    counters = bus.hubs.counters
    return {
        "status": "down" if tail is None else "ok",
        "streams": len(bus.streams),
        "pending": bus.hubs.pending,
        "lag": None if tail is None else bus.hubs.lag(tail, deadline),
        "counters": {
            **{name: counters[name] for name in ("resets", "overflows", "timeouts")},
            "refused": bus.hubs.notices.refusals,
        },
    }
