"""bus.follow: a snapshot, then every event after it."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model

from flosse_bus import SSEEvent, bus, sse_stream
from flosse_bus.exceptions import InvalidTopic
from tests.asgi import eventually, site

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closing_connections"),
]


class Shop:
    """What a snapshot shows."""

    def __init__(self):
        self.items = ["kettle"]
        self.snapshots = 0

    def snapshot(self):
        self.snapshots += 1
        return [("snapshot", list(self.items))]

    async def asnapshot(self):
        return self.snapshot()

    async def agenerate(self):
        for item in self.snapshot():
            yield item

    def sell(self, item, using=None):
        self.items.append(item)
        return bus.publish("orders", item, event="sold", using=using)


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture(params=["sync", "async", "async, coroutine", "async, generator"])
def view(request, shop, at):
    """A view that follows the shop, at /s/."""

    @sse_stream
    def view(request):
        after = request.headers.get("Last-Event-ID")
        yield from bus.follow("orders", after=after, snapshot=shop.snapshot)

    snapshot = {"async, coroutine": shop.asnapshot, "async, generator": shop.agenerate}

    @sse_stream
    async def aview(asked):
        after = asked.headers.get("Last-Event-ID")
        first = snapshot.get(request.param, shop.snapshot)
        async for item in bus.afollow("orders", after=after, snapshot=first):
            yield item

    return at(view if request.param == "sync" else aview)


def of(stream):
    return [(event, data) for event, data in stream.events]


async def follow(here, after=None):
    stream = here.ask("/s/", headers=[("last-event-id", after)] if after else [])
    await eventually(lambda: bus.hubs.streams == 1, "a subscription")
    return stream


def test_a_snapshot_and_then_every_event(run, view, shop):
    async def main():
        async with site() as here:
            stream = await follow(here)
            first = stream.last_id
            shop.sell("cup")
            shop.sell("saucer")
            await eventually(lambda: len(stream.events) == 3, "the events")
            assert of(stream) == [("snapshot", '["kettle"]'), ("sold", "cup"), ("sold", "saucer")]
            assert [e.data for e in bus.history("orders", after=first)] == ["cup", "saucer"]
            stream.leave()
            await stream.over()
            await eventually(lambda: not bus.hubs.streams, "it to leave")

            shop.sell("grinder")
            again = await follow(here, after=stream.last_id)
            await eventually(lambda: again.events, "what was missed")
            assert (of(again), shop.snapshots) == ([("sold", "grinder")], 1)

    run(main())


@pytest.mark.parametrize("after", ["nonsense", "earliest", "x" * 5000])
def test_who_has_nothing_to_resume_from_gets_a_snapshot(run, view, shop, after):
    shop.sell("cup")

    async def main():
        async with site() as here:
            stream = await follow(here, after)
            await eventually(lambda: stream.events, "the snapshot")
            shop.sell("saucer")
            await eventually(lambda: len(stream.events) == 2, "the event")
            assert of(stream) == [("snapshot", '["kettle", "cup"]'), ("sold", "saucer")]

    run(main())


def test_where_history_is_gone_there_is_a_new_snapshot(run, view, shop, configure):
    configure(HISTORY_SIZE=3)

    async def main():
        async with site() as here:
            stream = await follow(here)
            stream.leave()
            await stream.over()
            await eventually(lambda: not bus.hubs.streams, "it to leave")
            for number in range(10):
                shop.sell(str(number))
            again = await follow(here, after=stream.last_id)
            await eventually(lambda: again.events, "the snapshot")
            assert (len(again.events), shop.snapshots) == (1, 2)
            assert '"9"' in again.data[0]

    run(main())


def test_what_changes_during_the_snapshot_is_not_lost(run, at, shop):
    def snapshot():
        items = shop.snapshot()
        shop.sell("during")  # after it has been read, before it is sent
        return items

    @sse_stream
    def view(request):
        yield from bus.follow("orders", snapshot=snapshot)

    async def main():
        at(view)
        async with site() as here:
            stream = await follow(here)
            await eventually(lambda: len(stream.events) == 2, "both")
            assert of(stream) == [("snapshot", '["kettle"]'), ("sold", "during")]

    run(main())


def test_a_client_cut_off_during_the_snapshot_has_nothing_to_resume_from(run, at, shop):
    @sse_stream
    def view(request):
        yield from bus.follow("orders", snapshot=lambda: iter([1, 2, 3]))

    def ids(blocks):
        return [block.id for block in blocks]

    async def main():
        at(view)
        async with site() as here:
            stream = await follow(here)
            await eventually(lambda: len(stream.blocks) == 4, "the snapshot")
            assert [bool(id) for id in ids(stream.blocks)] == [False, False, False, True]

    run(main())


@pytest.mark.parametrize(
    "item", [("event", "data", "id"), {"data": 1, "id": "2"}, SSEEvent("data", id="3")]
)
def test_ids_in_a_snapshot_are_refused(run, at, settings, item):
    settings.DEBUG = True

    @sse_stream
    def view(request):
        yield from bus.follow("orders", snapshot=lambda: ["fine", item])

    async def main():
        at(view)
        async with site() as here:
            stream = await here.get("/s/")
            assert stream.events[0] == ("message", "fine")
            assert stream.events[1][0] == "error"
            assert "an item has an id" in stream.events[1][1]

    run(main())


def test_a_snapshot_may_use_the_orm(run, at):
    get_user_model().objects.create(username="ada")

    def names():
        return [list(get_user_model().objects.values_list("username", flat=True))]

    @sse_stream
    async def view(request):
        async for item in bus.afollow("orders", snapshot=names):
            yield {"data": item} if isinstance(item, list) else item

    async def main():
        at(view)
        async with site() as here:
            stream = await follow(here)
            await eventually(lambda: stream.events, "the snapshot")
            assert stream.data == ['["ada"]']

    run(main())


def test_topics_are_checked_at_once():
    for follow in (bus.follow, bus.afollow):
        with pytest.raises(InvalidTopic):
            follow("no topic", snapshot=list)
        with pytest.raises(InvalidTopic, match="at least one"):
            follow(snapshot=list)
