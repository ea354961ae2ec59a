"""The contract of what is kept of each topic: ``TOPICS`` and ``HISTORY_BYTES``."""

from __future__ import annotations

import contextlib

from ..backends.base import BusBackend
from .base import ContractBase, item, topics, wait_until


class BoundsContract(ContractBase):
    """Keep by pattern, and by bytes."""

    def test_history_by_pattern(self) -> None:
        patterns = topics({"runs.**": {"size": 5}, "*.1": {"size": 1}, "prices.*": {"size": 2}})
        sizes = {"runs.1": 5, "runs.a.b": 5, "prices.1": 1, "prices.2": 2, "other": 3}
        with self.backend(history_size=3, topics=patterns) as backend:
            for many in (False, True):
                for topic, size in sizes.items():
                    drafts = [item(topic, n) for n in range(9)]
                    if many:
                        records = backend.publish_many(drafts)
                    else:
                        records = [backend.publish(draft) for draft in drafts]
                    history = backend.read([topic]).topics[topic]
                    assert history.records == tuple(records[-size:]), topic
                    assert history.evicted == records[-size - 1].position, topic

    def test_time_by_pattern(self) -> None:
        patterns = topics({"short": {"ttl": 0.5}, "always": {"ttl": None}})
        with self.backend(history_ttl=60, topics=patterns) as backend:
            names = ("always", "long", "short")
            gone = backend.publish_many([item(name) for name in names])[2]
            wait_until(lambda: not _kept(backend, "short"))
            last = backend.publish_many([item(f"other.{n}") for n in range(40)])[-1]
            assert (len(_kept(backend, "always")), len(_kept(backend, "long"))) == (1, 1)
            snapshot = backend.read(names)
            if "short" in snapshot.topics:
                assert snapshot.topics["short"].evicted == gone.position
            else:
                assert snapshot.forgotten_of("short", backend.config) == gone.position
            assert backend.publish(item("short")).position == last.position + 1
            assert len(_kept(backend, "short")) == 1

    def test_bytes_of_a_topic(self) -> None:
        with self.backend(history_bytes=100) as backend:
            for many in (False, True):
                drafts = [item("a", "x" * size) for size in (40, 40, 20, 30, 11)]
                if many:
                    records = backend.publish_many(drafts)
                else:
                    records = [backend.publish(draft) for draft in drafts]
                history = backend.read(["a"]).topics["a"]
                assert history.records == tuple(records[2:])
                assert history.evicted == records[1].position
                other = backend.publish(item("b", "x" * 100))
                assert _kept(backend, "b") == (other,)
                assert _kept(backend, "a") == tuple(records[2:])

    def test_another_size_leaves_no_hole(self) -> None:
        """Processes with another ``HISTORY_SIZE`` share a log, as during a deploy."""
        for many in (False, True):
            with self.backend(history_size=1000) as large:
                small = self.another(large, history_size=2)
                if small is None:
                    return
                with contextlib.closing(small):
                    for _ in range(10):
                        large.publish(item("a"))
                    for _ in range(2):
                        drafts = [item("a"), item("a")]
                        if many:
                            small.publish_many(drafts)
                        else:
                            for draft in drafts:
                                small.publish(draft)
                    for backend in (small, large):
                        history = backend.read(["a"]).topics["a"]
                        places = [record.position for record in history.records]
                        assert places == list(range(history.evicted + 1, 15))

    def test_what_fits_exactly_is_kept(self) -> None:
        with self.backend(history_bytes=100) as backend:
            records = [backend.publish(item("a", "x" * 25)) for _ in range(6)]
            assert _kept(backend, "a") == tuple(records[2:])

    def test_the_newest_event_is_kept_whatever_its_size(self) -> None:
        with self.backend(topics=topics({"a": {"max_bytes": 10}})) as backend:
            backend.publish(item("a", "x"))
            large = backend.publish(item("a", "x" * 50))
            history = backend.read(["a"]).topics["a"]
            assert (history.records, history.evicted) == ((large,), large.previous)
            small = backend.publish(item("a", "x" * 10))
            history = backend.read(["a"]).topics["a"]
            assert (history.records, history.evicted) == ((small,), large.position)

    def test_size_and_bytes_both_hold(self) -> None:
        with self.backend(history_size=3, history_bytes=100) as backend:
            records = backend.publish_many([item("a", "x" * 10) for _ in range(5)])
            assert _kept(backend, "a") == tuple(records[2:])
            records.append(backend.publish(item("a", "x" * 85)))
            assert _kept(backend, "a") == tuple(records[4:])


def _kept(backend: BusBackend, topic: str) -> tuple[object, ...]:
    topics = backend.read([topic]).topics
    return topics[topic].records if topic in topics else ()
