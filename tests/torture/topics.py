"""What is published to, and what a stream may ask for."""

from __future__ import annotations

TOPICS = [f"load.{group}.{n}" for group in "abcd" for n in range(5)]
PATTERNS = ["load.**", "load.a.*", "load.*.0", "load.b.**"]


def covered(name):
    """Return the topics that a name of a stream stands for, found in another way than the bus."""
    if name in TOPICS:
        return {name}
    parts = name.split(".")
    if parts[-1] == "**":
        start = ".".join(parts[:-1]) + "."
        return {topic for topic in TOPICS if topic.startswith(start)}
    return {
        topic
        for topic in TOPICS
        if all(part in ("*", own) for part, own in zip(parts, topic.split("."), strict=True))
    }
