"""What docs/migrating.md says something becomes does what that did."""

from __future__ import annotations

import itertools
import re

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory

from flosse_bus import bus
from flosse_bus.topics import authorisers
from tests.asgi import eventually, site
from tests.processes import ROOT

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closing_connections"),
]

PAGE = (ROOT / "docs" / "migrating.md").read_text()
AFTER = re.compile(r"^```python\n(# after.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def after(monkeypatch):
    """Run every block, and return the names that they define."""
    monkeypatch.setattr(authorisers, "_authorisers", list(authorisers._authorisers))
    names = {"__name__": "migrating"}
    for block in AFTER.finditer(PAGE):
        exec(compile(block[1], "migrating.md", "exec"), names)
    return names


class Urls:
    def __init__(self, urlpatterns):
        self.urlpatterns = urlpatterns


def test_every_block_of_python_is_an_after():
    assert len(AFTER.findall(PAGE)) == PAGE.count("```python\n") > 8


def test_groups_become_topics(after, run, django_user_model, client):
    user = django_user_model.objects.create(username="ada")
    client.force_login(user)
    cookie = ("cookie", f"sessionid={client.cookies['sessionid'].value}")

    async def main():
        async with site() as here:
            mine, other = f"/events/?topic=users.{user.pk}", "/events/?topic=users.999"
            assert (await here.get(other, headers=[cookie])).status == 403
            stream = await here.follow(mine, headers=[cookie])
            bus.publish(f"users.{user.pk}", {"unread": 3}, event="inbox", using=None)
            await eventually(lambda: stream.events, "it")
            assert stream.events == [("inbox", '{"unread":3}')]

    run(main())


def test_a_consumer_with_a_loop_becomes_a_view(after, run, settings):
    from django.urls import path

    settings.ROOT_URLCONF = Urls([path("clock/", after["clock"])])

    async def main():
        async with site() as here:
            stream = here.ask("/clock/")
            await eventually(lambda: stream.events, "a tick")
            assert re.match(r"\d{4}-\d\d-\d\dT", stream.data[0])

    run(main())


def test_the_urls_of_eventstream(after, run, settings):
    settings.ROOT_URLCONF = Urls(after["urlpatterns"])

    async def main():
        async with site() as here:
            assert (await here.get("/orders/5/events/")).status == 403
            assert (await here.get("/events/?topic=rooms.1")).status == 403
            stream = await here.follow("/orders/events/")
            bus.publish("orders", {"id": 7}, event="paid", using=None)
            await eventually(lambda: stream.events, "it")
            assert stream.events == [("paid", '{"id":7}')]

    run(main())


def test_flosses_view_keeps_its_frames(after):
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    assert after["live_updates"](request).status_code == 403
    request.user = type("User", (), {"is_authenticated": True})()
    response = after["live_updates"](request)
    assert response.getvalue().decode() == (
        'retry: 3000\ndata: connected\n\nevent: update\ndata: {"count": 1}\n\n'
        'id: 17\nevent: update\ndata: {"count": 2}\n\nevent: finish\ndata: done\n\n'
        "event: close\ndata: bye\n\n"
    )


def test_a_response_of_ones_own(after):
    response = after["feed"](RequestFactory().get("/"))
    parts = list(itertools.islice(response.streaming_content, 3))
    response.close()
    assert parts == [b'data: {"n": 1}\n\n'] * 3
