"""What happens in each case: a function for each, which returns what was published."""

from __future__ import annotations

import threading

import httpx

from tests.clients.arena import HISTORY, KEPT, PATIENCE
from tests.clients.verdict import numbers
from tests.processes import wait_until


def _arrived(arena, published):
    """Return a condition: a client has seen the last of these, or been told that some are lost."""

    def condition(seat):
        mine = [number for number, name in published if name is None or seat.client.named]
        seen = numbers(arena.seen(seat))
        return mine[-1] in seen or seen[-1:] == [None]

    return condition


def _cut(arena, case, topics, kind, *, before=0, after=3, patience=None, query=(), names=(None,)):
    """Cut after ``before`` events, publish ``after`` meanwhile, and two when all are back."""
    events = [(topic, name) for topic in topics for name in names]

    def some(count):
        return [events[at % len(events)] for at in range(count)]

    published = arena.publish(*some(before)) if query else []
    arena.follow(topics, patience=patience, query=query)
    if before:
        if not query:
            published += arena.publish(*some(before))
        arena.wait(_arrived(arena, published), "the first events")
    return _away(arena, case, published, lambda: some(after), lambda: some(2), kind)


def _away(arena, case, published, meanwhile, then, kind):
    for seat in arena.seats:
        seat.cutter.cut(kind)
    published = published + arena.publish(*meanwhile())
    for seat in arena.seats:
        seat.cutter.release()
    arena.wait(_arrived(arena, published), "what came meanwhile", case, LATE)
    published = published + arena.publish(*then())
    arena.wait(_arrived(arena, published), "what came then", case, LATE)
    return published


#: Seconds for which a client may stay away before its events count as lost.
LATE = 20.0
#: How long the server is away at most: some clients come back after five seconds only.
AWAY = 7.0
#: Seconds between events while the server is restarted again and again.
PACE = 0.05
#: Events from one restart to the next.
BETWEEN = 40
#: A request takes at least so many bytes.
REQUEST = 60


def before_first(arena, case):
    return _cut(arena, case, ["load.first"], "fin")


def heartbeat(arena, case):
    """The cursor moves while the topic is quiet: heartbeats tell."""
    arena.follow(["load.quiet"])
    elsewhere = arena.publish(("load.elsewhere", None))
    assert elsewhere
    pings = {seat.client.name: _pings(arena, seat) for seat in arena.seats}
    arena.wait(lambda seat: _pings(arena, seat) >= pings[seat.client.name] + 2, "two heartbeats")
    one = [("load.quiet", None)]
    return _away(arena, case, [], lambda: one * 3, lambda: one * 2, "fin")


def _pings(arena, seat):
    """Count heartbeats where they are sent: some clients show none."""
    return sum(c.forwarded.count(b"event: stream-ping") for c in seat.cutter.connections if c.open)


def fin(arena, case):
    return _cut(arena, case, ["load.fin"], "fin", before=3)


def end(arena, case):
    return _cut(arena, case, ["load.end"], "end", before=3)


def rst(arena, case):
    return _cut(arena, case, ["load.rst"], "rst", before=3)


def silence(arena, case, patience=PATIENCE):
    return _cut(arena, case, ["load.silence"], "silence", before=3, patience=patience)


def middle(arena, case):
    topic = ("load.middle", None)
    arena.follow([topic[0]])
    published = arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "the first events")
    for seat in arena.seats:
        seat.cutter.halve_next()
    published += arena.publish(topic)
    arena.wait(lambda seat: bool(seat.cutter.cuts), "the cut")
    published += arena.publish(topic, topic)
    for seat in arena.seats:
        seat.cutter.release()
    arena.wait(_arrived(arena, published), "what came meanwhile", case, LATE)
    published += arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "what came then", case, LATE)
    return published


def earliest(arena, case):
    query = [("last_event_id", "earliest")]
    return _cut(arena, case, ["load.earliest"], "fin", before=3, query=query)


def two_topics(arena, case):
    return _cut(
        arena, case, ["load.two.a", "load.two.b"], "rst", before=4, after=4, names=(None, "item")
    )


def reset(arena, case):
    """More is published than is kept."""
    return _cut(arena, case, ["load.reset"], "fin", before=3, after=HISTORY + 20)


def restart(arena, case):
    """The port refuses connections while the server is away."""
    topic = ("load.restart", None)
    arena.follow([topic[0]])
    published = arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "the first events")
    for seat in arena.seats:
        seat.cutter.refuse()
    arena.server.stop()
    published += arena.publish(topic, topic, topic)
    arena.serve()
    for seat in arena.seats:
        seat.cutter.accept()
    arena.wait(_arrived(arena, published), "what came meanwhile", case, LATE)
    published += arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "what came then", case, LATE)
    return published


def behind(arena, case, proxy):
    """The proxy stays, and answers while the server is away."""
    topic = (f"load.{case}", None)
    arena.follow([topic[0]], upstream=proxy.port, scheme="https")
    published = arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "the first events")
    asked = {seat.client.name: seat.cutter.asked for seat in arena.seats}
    arena.server.stop()
    published += arena.publish(topic, topic, topic)
    _answer(proxy)
    arena.wait(
        lambda seat: seat.cutter.asked > asked[seat.client.name] + REQUEST,
        "a request while the server is away", case, AWAY,
    )  # fmt: skip
    arena.serve()
    arena.wait(_arrived(arena, published), "what came meanwhile", case, LATE)
    published += arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "what came then", case, LATE)
    return published


def restarts_behind(arena, proxy, times, *, kill=False, patience=None):
    """Events go on and on while the server is restarted, and nobody waits for the clients.

    ``kill``: as the kernel does that is out of memory.
    """
    topic = (KEPT, None)
    patience = (
        PATIENCE if kill else None
    )  # WebKitGTK does not notice an HTTP/2 stream that is reset
    arena.follow([KEPT], upstream=proxy.port, scheme="https", patience=patience)
    published = arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "the first events")
    halt = threading.Event()

    def publish():
        while not halt.wait(PACE):
            published.extend(arena.publish(topic))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(times):
            if kill:
                arena.server.kill()
            else:
                arena.server.stop()
            _answer(proxy)
            arena.serve()
            _more(published, BETWEEN)
    finally:
        halt.set()
        thread.join()
    arena.wait(_arrived(arena, published), "what came meanwhile", "restarts", 3 * LATE)
    published += arena.publish(topic, topic)
    arena.wait(_arrived(arena, published), "what came then", "restarts", LATE)
    return published


def _more(published, count):
    """Wait until so many more events have been published."""
    enough = len(published) + count
    wait_until(lambda: len(published) > enough, "more events")


def _answer(proxy):
    """Wait until the proxy answers by itself: some hold requests back for a while."""
    with httpx.Client(timeout=20, trust_env=False, verify=proxy.certificate.context) as client:
        headers = {"Accept": "text/event-stream"}
        client.get(f"{proxy.url}/events/?topic=load.away", headers=headers)


DIRECT = {
    "before-first": before_first,
    "heartbeat": heartbeat,
    "fin": fin,
    "rst": rst,
    "end": end,
    "silence": silence,
    "middle": middle,
    "earliest": earliest,
    "two-topics": two_topics,
    "reset": reset,
    "restart": restart,
}
