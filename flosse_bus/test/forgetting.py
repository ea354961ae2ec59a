"""The contract of topics of which nothing is kept any more: what they may have lost is not lost."""

from __future__ import annotations

import random

from ..backends.base import BusBackend
from ..events import Record
from .base import ContractBase, forget, item, topics, wait_until

#: Seconds for which short topics are kept.
SHORT = 0.2


class ForgettingContract(ContractBase):
    """Forget topics that are dead, and by class what they had."""

    def test_a_topic_that_lives_on_is_not_in_the_way_of_dead_ones(self) -> None:
        patterns = topics({"always.*": {"ttl": None}, "short.*": {"ttl": SHORT}})
        with self.backend(topics=patterns) as backend:
            backend.publish(item("always.0"))
            for n in range(60):
                backend.publish(item(f"short.{n}"))
            always = [backend.publish(item(f"always.{n}")) for n in range(1, 20)]
            wait_until(lambda: not _kept(backend, "short.59"))
            for _ in range(100):
                backend.publish(item("busy"))
            assert not backend.read(["short.*"]).topics
            assert len(backend.read(["always.*"]).topics) == len(always) + 1

    def test_batches_of_new_topics_leave_no_dead_ones(self) -> None:
        with self.backend(topics=topics({"short.*": {"ttl": SHORT}})) as backend:
            backend.publish(item("quiet"))
            backend.publish_many([item(f"short.{n}") for n in range(300)])
            wait_until(lambda: not _kept(backend, "short.299"))
            for batch in range(4):
                backend.publish_many([item(f"new.{batch}.{n}") for n in range(200)])
            assert not backend.read(["short.*"]).topics

    def test_what_a_class_has_lost_is_known(self) -> None:
        with self.backend(topics=topics({"short.*": {"ttl": SHORT}})) as backend:
            gone = self._forget(backend, "short.1").position
            names = ("short.1", "short.2", "short.*", "*.1", "*.*", "**")
            snapshot = backend.read(names)
            for name in names:
                assert snapshot.forgotten_of(name, backend.config) >= gone, name
            for topic in ("short.1", "short.2"):  # it may be one that was forgotten
                record = backend.publish(item(topic))
                history = backend.read([topic]).topics[topic]
                assert history.records == (record,)
                assert gone <= history.evicted < record.position

    def test_topics_of_other_classes_have_lost_nothing(self) -> None:
        if not self.forgets_by_class:
            return
        patterns = topics({"first": {"ttl": None}, "short.*": {"ttl": SHORT}, "last.**": {}})
        with self.backend(topics=patterns) as backend:
            gone = self._forget(backend, "short.1").position
            quiet = ("first", "last.1", "last.*", "rest", "rest.1", "rest.**", "short.1.2", "*")
            snapshot = backend.read(quiet)
            for name in quiet:
                assert snapshot.forgotten_of(name, backend.config) == 0, name
            for many in (False, True):
                for topic in ("first", "last.1", "rest.1"):
                    fresh = f"{topic}.many" if many else topic
                    if many:
                        backend.publish_many([item(fresh)])
                    else:
                        backend.publish(item(fresh))
                    assert backend.read([fresh]).topics[fresh].evicted == 0, fresh
            backend.publish(item("short.2"))
            assert backend.read(["short.2"]).topics["short.2"].evicted == gone

    def test_changed_topics_hide_no_loss(self) -> None:
        """As in a rolling deploy, when processes with other ``TOPICS`` are on one log."""
        short = {"ttl": SHORT}
        choices = [
            {"a.*": short, "b.*": short},
            {"b.*": short, "a.*": short},
            {"a.1": short, "*.1": short, "**": short},
            {"*.*": short, "other": {}},
            {},
        ]
        with self.backend(history_ttl=SHORT, topics=topics(choices[0])) as first:
            backends = [first]
            for choice in choices[1:]:
                other = self.another(first, topics=topics(choice))
                if other is None:
                    return
                backends.append(other)
            chosen = random.Random(7)
            names = ["a.1", "a.2", "b.1", "b.2"]
            lost: dict[str, int] = {}
            try:
                for _ in range(12):
                    gone = chosen.choice(names)
                    lost[gone] = self._forget(chosen.choice(backends), gone).position
                    for backend in backends:
                        snapshot = backend.read(names)
                        for name, position in lost.items():
                            history = snapshot.topics.get(name)
                            if history is not None:
                                assert history.evicted >= position, (name, backend.config.topics)
                            else:
                                known = snapshot.forgotten_of(name, backend.config)
                                assert known >= position, (name, backend.config.topics)
                    # One that comes back knows, too.
                    name = chosen.choice([*lost])
                    backend = chosen.choice(backends)
                    backend.publish(item(name))
                    history = backend.read([name]).topics[name]
                    assert history.evicted >= lost[name], name
            finally:
                for backend in backends[1:]:
                    backend.close()

    def _forget(self, backend: BusBackend, topic: str) -> Record:
        """Publish an event of a short topic and see the topic being forgotten."""
        record = backend.publish(item(topic))
        wait_until(lambda: not _kept(backend, topic))
        forget(backend, topic)
        return record


def _kept(backend: BusBackend, topic: str) -> bool:
    topics = backend.read([topic]).topics
    return topic in topics and bool(topics[topic].records)
