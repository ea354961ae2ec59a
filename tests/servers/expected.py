"""What a browser must have seen when it has checked a server by ``tests/lab/page.html``."""

from __future__ import annotations

import json

from tests.lab import nasty

FORMS = ("sync", "async")
#: EventSource.readyState
CONNECTING, CLOSED = 0, 2
#: Refused at once, for good.
REFUSED = {"opened": 0, "states": [CLOSED], "events": []}
#: Three events and an end, twice, and then it is told not to come back.
COUNTED = {
    "opened": 2,
    "states": [CONNECTING, CONNECTING, CLOSED],
    "events": [["number", str(n), str(n)] for n in range(1, 7)],
}


def check(hub, url, *, dropped=""):
    """Have the hub's browser check a server from three origins, and assert what it has seen.

    ``dropped`` are characters that it leaves out of data, against the standard.
    """
    pages = [
        hub.open(f"{origin}/{path}", part=part, server=url)
        for part, origin, path in [
            ("same", url, "lab/page/"),
            ("allowed", hub.url, "page/"),
            ("refused", hub.other_url, "page/"),
        ]
    ]
    same, allowed, refused = map(hub.seen, pages)

    ids = same.pop("ids")
    data = ["one", "two", "three"]
    assert same.pop("bus") == {
        "opened": 2,
        "states": [CONNECTING],
        "events": [
            ["lab.named" if text == "one" else "message", text, id]
            for text, id in zip(data, ids, strict=True)
        ],
    }
    for form in FORMS:
        _check_nasties(same.pop(f"{form}-nasties"), dropped)
    asked = same.pop("asked")
    assert set(asked) == {f"same-{form}-{last}" for form in FORMS for last in (204, 403)}
    assert all(ids == [0, 3, 6] for ids in asked.values()), asked
    denied = ["bus-denied", *(f"{form}-denied" for form in FORMS)]
    assert same == dict.fromkeys([*asked, "same-sync-204-again"], COUNTED) | dict.fromkeys(
        denied, REFUSED
    )

    assert allowed.pop("bus")["events"][0][:2] == ["message", "hello"]
    for form in FORMS:
        assert allowed.pop(f"allowed-{form}-204") == COUNTED
        assert allowed.pop(f"{form}-cookie-true")["events"] == [["message", "yes", ""]]
        assert allowed.pop(f"{form}-cookie-false")["events"] == [["message", "None", ""]]
    assert allowed == {}

    names = ["bus", *(f"refused-{form}-204" for form in FORMS)]
    assert refused == dict.fromkeys(names, REFUSED)


def _check_nasties(seen, dropped):
    assert (seen["opened"], seen["states"]) == (1, [])
    *events, last = seen["events"]
    assert last[:2] == ["message", nasty.LAST]
    expected, last_id = [], ""
    for _, event, data, id, is_json in nasty.said():
        last_id = last_id if id is None else id
        expected.append((event or "message", data, last_id, is_json))
    assert len(events) == len(expected)
    for got, (event, data, last_id, is_json) in zip(events, expected, strict=True):
        assert (got[0], got[2]) == (event, last_id), data
        if is_json:
            assert json.loads(got[1]) == json.loads(json.dumps(data))
        else:
            # The format has no other line ends.
            lines = data.replace("\r\n", "\n").replace("\r", "\n")
            assert got[1] == lines.translate(dict.fromkeys(map(ord, dropped)))
