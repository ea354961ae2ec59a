"""What is hard to send: the same list in the server that sends it and the test that expects it."""

from __future__ import annotations

import random

from flosse_bus import SSEEvent

#: What str.splitlines() believes to end lines, what fields are made of, and what is not ASCII.
FINE = "\u2028\u2029\x85\x0b\x0c\x1c\x1e\ufeff\ufffd: daetirv0\t😀ü\x7f\x1b"
LINE_ENDS = "\r\n\0"
SURROGATES = "\ud800\udbff\udc00\udfff"
LAST = "that is all"


def said():
    """Return ``(raw, event, data, id, is it JSON?)`` of each: what is yielded, and what is meant."""
    dice = random.Random(20)

    def text(alphabet, most=8):
        return "".join(dice.choices(alphabet, k=dice.randrange(most)))

    found = [
        (text, None, text, None, False)
        for text in ("", " ", "\n", "\r", "\r\n", "\n\r", "\n\n\n", "\0", "\ufeff", ": ", "data: x",
                     "a\u2028b\u2029c\x85d\x0be\x0cf", "x\n\nevent: y\ndata: z\n\n", "😀" * 9000,
                     "\n" * 5000, "x" * 2**20, "\u2028" * 2**18)
    ]  # fmt: skip
    for _ in range(200):
        data, event, id = text(FINE + LINE_ENDS), f"e{text(FINE)}", text(FINE)
        value = {
            text(FINE + LINE_ENDS + SURROGATES): [text(SURROGATES + FINE), dice.random(), None]
        }
        found.append(
            dice.choice(
                [
                    (data, None, data, None, False),
                    (data.encode(), None, data, None, False),
                    ((event, data), event, data, None, False),
                    ((event, memoryview(data.encode()), id), event, data, id, False),
                    ((event, value, id), event, value, id, True),
                    (SSEEvent(data, event, id), event, data, id, False),
                    ({"data": value, "id": id}, None, value, id, True),
                    (value, None, value, None, True),
                ]
            )
        )
    return found


NAMES = sorted({event for _, event, *_ in said() if event is not None})
