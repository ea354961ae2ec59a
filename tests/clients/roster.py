"""The clients of the matrix: where each runs, what its users must do, and what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The cases, in the order of the table, with what every client must see: all of it, or a reset.
CASES = {
    "before-first": "cut before the first event",
    "heartbeat": "cut after a heartbeat on a quiet topic",
    "fin": "cut between two events, by FIN",
    "rst": "by RST",
    "end": "ended as HTTP says",
    "silence": "by silence",
    "middle": "cut in the middle of an event",
    "earliest": "`earliest`, and a cut",
    "two-topics": "two topics, and a cut",
    "reset": "history has expired",
    "restart": "the server restarts",
    "nginx": "behind nginx",
    "haproxy": "behind HAProxy",
    "caddy": "behind Caddy",
    "apache": "behind Apache",
}
PROXIES = ("nginx", "haproxy", "caddy", "apache")
#: The cases in which history is gone: a reset is what must come.
TOLD_CASES = ("reset",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Client:
    """One client. ``host`` is the program in which it runs."""

    name: str
    host: str
    #: The npm or Python package that has it; the browser itself where there is none.
    package: str | None = None
    #: Another npm package that it needs, whose version matters too.
    beside: str | None = None
    #: What its users must do, as the matrix does it.
    must: tuple[str, ...] = ()
    #: What it cannot do, by case: what it shows instead of every event.
    limits: dict[str, str] = field(default_factory=dict)
    #: What it does instead of waiting for as long as ``retry`` says.
    retry: str | None = None
    #: Whether it shows messages that have no data.
    empty: bool = False
    #: Whether events with a name reach it.
    named: bool = True
    #: Whether it shows the bus's own events.
    shows_own: bool = True
    #: The cases in which it has to fetch its content again, as after a reset.
    refetches: tuple[str, ...] = ()
    #: Whether it loses events where its users do not do what they must.
    naive: bool = False
    #: Which format of events it takes: any, or that of one library.
    dialect: str | None = None


WATCH = "It never gives up a stream that has gone silent: put a [watchdog](#a-watchdog) on it."
TORN = "It takes the id of an event of which it has not seen the end, and loses it when cut there."
NATIVE = {"must": (WATCH,)}

ROSTER = [
    Client(name="Chromium", host="chromium", **NATIVE),
    Client(name="Firefox", host="firefox", **NATIVE),
    Client(name="WebKitGTK", host="webkit", **NATIVE),
    Client(
        name="@microsoft/fetch-event-source", host="chromium",
        package="@microsoft/fetch-event-source",
        must=(
            "Throw in `onclose`: else the end of a stream is the end.",
            "Ignore messages without data: a comment of a proxy is one.",
            "Pass a `fetch` that sends the id of the last message as `last-event-id`: the library "
            "sends that of an event of which it has not seen the end, which is then lost.",
            "Set `openWhenHidden`: else a page that is hidden has no stream.",
            WATCH,
        ),
        naive=True, empty=True,
    ),
    Client(
        name="event-source-polyfill", host="chromium", package="event-source-polyfill",
        must=(
            "Leave `lastEventIdQueryParameterName` at `lastEventId`, or name another that the "
            "stream reads.",
            "Set `heartbeatTimeout` to 2 to 3 heartbeats.",
        ),
        retry="It waits for a second at least, whatever `retry` says.",
        naive=True,
    ),
    Client(
        name="reconnecting-eventsource", host="chromium", package="reconnecting-eventsource",
        must=(WATCH,),
    ),
    Client(
        name="htmx", host="chromium", package="htmx-ext-sse", beside="htmx.org",
        must=(
            "Name every event in `sse-swap`, `stream-reset` too.",
            "Fetch the content again on a repeated `htmx:sseOpen`: where an answer was not 200, it has "
            "opened a new source, which begins at its own URL.",
            WATCH,
        ),
    ),
    Client(
        name="@hotwired/turbo", host="chromium", package="@hotwired/turbo",
        must=("Publish without an `event` name: Turbo takes unnamed messages only.", WATCH),
        named=False,
    ),
    Client(
        name="Datastar", host="chromium", package="@starfederation/datastar",
        must=(
            "On `finished`, fetch the content again and start from its cursor: a stream that ends "
            "is the end, and so are ten reconnects.",
        ),
        named=False, shows_own=False, refetches=("end", "restart", *PROXIES), naive=True,
        dialect="datastar",
        limits={
            "middle": TORN,
            "silence": "Nothing ends a stream that has gone silent.",
            "reset": "It shows no events but its own: a `stream-reset` is not seen.",
        },
    ),
    Client(name="eventsource 2", host="node", package="eventsource-2", must=(WATCH,), limits={"middle": TORN}),
    Client(
        name="eventsource 3", host="node", package="eventsource-3",
        must=("Pass a `fetch` that adds `dispatcher: new Agent({ bodyTimeout })` of undici to its options, with 2 to 3 heartbeats in ms.",),
    ),
    Client(
        name="eventsource 4", host="node", package="eventsource-4",
        must=("Pass a `fetch` that adds `dispatcher: new Agent({ bodyTimeout })` of undici to its options, with 2 to 3 heartbeats in ms.",),
    ),
    Client(name="undici", host="node", package="undici", must=(WATCH,)),
    Client(
        name="eventsource-client", host="node", package="eventsource-client",
        must=("Pass a `fetch` that adds `dispatcher: new Agent({ bodyTimeout })` of undici to its options, with 2 to 3 heartbeats in ms.",),
    ),
    Client(
        name="launchdarkly-eventsource", host="node", package="launchdarkly-eventsource",
        must=("Set `readTimeoutMillis` to 2 to 3 heartbeats.",),
    ),
    Client(
        name="httpx-sse", host="python", package="httpx-sse",
        must=(
            "It has [no loop](#a-loop): come back after `retry` with the last id.",
            "Set a read timeout of 2 to 3 heartbeats.",
        ),
    ),
    Client(
        name="sseclient-py", host="python", package="sseclient-py",
        must=(
            "It has [no loop](#a-loop): come back after `retry` with the last id.",
            "Set a read timeout of 2 to 3 heartbeats.",
        ),
    ),
    Client(
        name="requests-sse", host="python", package="requests-sse",
        must=(
            "Open it again with `latest_event_id` when it gives up.",
            "Set a `timeout` of 2 to 3 heartbeats.",
        ),
    ),
    Client(
        name="aiohttp-sse-client", host="python", package="aiohttp-sse-client",
        must=(
            "Open it again with the last id as a header when it raises.",
            "Set `sock_read` to 2 to 3 heartbeats, and no `total` timeout.",
        ),
    ),
]  # fmt: skip
