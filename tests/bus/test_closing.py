"""What is closed ends at once, in whatever step the event loop is just then.

Before Python 3.12 ``asyncio.wait_for()`` hides a cancellation that comes in the step in which what
it waits for is done.
"""

from __future__ import annotations

import asyncio

import pytest

from flosse_bus.backends.redis.listener import RedisListener
from tests.hubs import Flags, hub_of
from tests.redis.help import backend_at

#: Steps of the event loop between an answer and the call of aclose().
STEPS = range(8)


async def pass_steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("steps", STEPS)
def test_a_hub_ends_while_it_drops_idle_topics(run, monkeypatch, steps):
    monkeypatch.setattr("flosse_bus.feed.LINGER", 0.01)

    async def main():
        asked, answered = asyncio.Event(), asyncio.Event()

        async def unwatch(names):
            asked.set()
            await answered.wait()

        async with hub_of() as (hub, _):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            monkeypatch.setattr(hub.feed._heard, "unwatch", unwatch)
            hub.close(subscription)
            await asked.wait()
            monkeypatch.setattr("flosse_bus.feed.LINGER", 1000)
            answered.set()
            await pass_steps(steps)
            await asyncio.wait_for(hub.feed.aclose(), 20)

    run(main())


@pytest.mark.parametrize("steps", STEPS)
def test_a_redis_listener_ends_while_it_is_probed(run, monkeypatch, redis_url, steps):
    async def disconnect():
        """Take no step of the event loop."""

    async def main(backend):
        answered, take = asyncio.Event(), RedisListener._take

        def take_and_tell(listener, reply):
            take(listener, reply)
            if listener._answered.is_set():
                answered.set()

        monkeypatch.setattr(RedisListener, "_take", take_and_tell)
        listener = backend.listen()
        await listener.watch(["t"])
        real = listener._connection.disconnect
        monkeypatch.setattr(listener._connection, "disconnect", disconnect)
        await listener.probe()
        await answered.wait()
        await pass_steps(steps)
        try:
            await asyncio.wait_for(listener.aclose(), 20)
        finally:
            await real()

    backend = backend_at(redis_url)
    try:
        run(main(backend))
    finally:
        backend.close()
