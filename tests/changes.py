"""What the topics of model changes have heard."""

from __future__ import annotations

from flosse_bus import bus


def heard(topic):
    """Show a topic's events: (action, pk, fields)."""
    return [
        (event.data["action"], event.data["pk"], event.data["fields"])
        for event in bus.history(topic)
    ]


def actions(topic):
    return [event.data["action"] for event in bus.history(topic)]
