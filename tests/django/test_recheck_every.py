"""How often the permission of an open stream is checked again: RECHECK_EVERY, and its exceptions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured

from flosse_bus import access, buses
from flosse_bus.views import SubscribeView
from tests.asgi import eventually, site
from tests.lab.urls import private

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def overdue_after(rf, monkeypatch):
    """Return the seconds after which a view's stream must have been asked about."""

    def overdue_after(**kwargs):
        now = [0.0]
        monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now[0]))
        view = SubscribeView(topics=["private"], **kwargs)
        view.setup(rf.get("/"))
        asked = view.get_access(("private",))
        while not asked.overdue:
            now[0] += 1
            assert now[0] < 10_000
        return now[0]

    return overdue_after


def test_each_bus_has_its_own_and_a_view_may_have_another(settings, overdue_after):
    assert overdue_after() == 60
    settings.FLOSSE_BUS = {"default": {"RECHECK_EVERY": 30}, "audit": {"RECHECK_EVERY": 600}}
    assert overdue_after() == 30
    assert overdue_after(bus="audit") == 600
    assert overdue_after(bus="audit", recheck_every=5) == 5
    assert buses["audit"].config.recheck_every == 600


def test_streams_end_within_the_setting(run, ask, configure):
    configure(RECHECK_EVERY=0.2, HEARTBEAT=0.05)

    async def main():
        async with site() as here:
            stream = await here.follow("/asked/")
            allowed.clear()
            await stream.over()
            await eventually(lambda: stream.events, "what ended it")
            assert [event for event, _ in stream.events] == ["stream-error"]

    allowed = [True]
    ask(lambda request: bool(allowed))
    run(main())


@pytest.mark.parametrize("value", [-1, "60", True, float("inf"), float("nan")])
def test_what_can_never_work_is_refused_at_once(value):
    with pytest.raises(ImproperlyConfigured, match="recheck_every"):
        private(recheck_every=value)
