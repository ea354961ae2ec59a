"""What the journals say: was anything lost, doubled or reordered, or reset without need?

An id is ``epoch-position``. Positions order everything, also over epochs that have gone on from one
another. What an epoch had beyond the end that its successor knows of, the server has lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.torture.topics import TOPICS, covered


@dataclass
class Report:
    """The figures, and for whoever must find out why, what each of them was."""

    title: str
    published: int = 0
    failed: int = 0
    appeared_though_failed: int = 0
    deliveries: int = 0
    faults: Counter = field(default_factory=Counter)
    connections: Counter = field(default_factory=Counter)
    #: Seconds until the last stream had all, once nothing was broken any more.
    recovery: float = 0
    epochs: int = 0
    resets: Counter = field(default_factory=Counter)
    unjustified: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    published_twice: int = 0
    wrong: int = 0
    behind: int = 0
    hung: int = 0
    details: list = field(default_factory=list)

    def count(self, what, *details, times=1):
        setattr(self, what, getattr(self, what) + times)
        self.details.append(f"{what}: " + " ".join(map(str, details)))

    def __str__(self):
        def listed(counter):
            return ", ".join(f"{n} {what}" for what, n in sorted(counter.items())) or "none"

        lines = [
            f"{self.title}",
            f"  events published {self.published}, failed {self.failed}"
            f" (of which appeared {self.appeared_though_failed}), deliveries {self.deliveries}",
            f"  faults injected {sum(self.faults.values())}: {listed(self.faults)}",
            f"  connections: {listed(self.connections)}",
            f"  recovered in {self.recovery:.1f} s",
            f"  epochs {self.epochs}, resets {sum(self.resets.values())} ({listed(self.resets)}),"
            f" unjustified {self.unjustified}",
            f"  lost {self.lost}, duplicated {self.duplicated}, reordered {self.reordered},"
            f" published twice {self.published_twice}, wrong {self.wrong}, behind {self.behind},"
            f" hung {self.hung}",
            *(f"    {line}" for line in self.details[:40]),
        ]
        return "\n".join(lines)


class Epochs:
    """How the epochs have gone on from one another. Fed with every snapshot that anybody saw.

    A log that has lost its newest events goes on in a new epoch from where the older one still
    holds: positions beyond that are given anew, to other events.
    """

    def __init__(self, snapshots):
        self.all = {epoch for epoch, _ in snapshots}
        self._ends = {}
        count = {epoch: len(ancestors) for epoch, ancestors in snapshots}
        for epoch, ancestors in snapshots:
            # One that ends where the one before it did has had no event. It knows of more.
            order = sorted(ancestors, key=lambda e: (ancestors[e], count.get(e, 0)))
            ends = {older: ancestors[older] for older in order}
            self._ends[epoch] = ends
            for number, older in enumerate(order):
                if older not in count:  # nobody has asked while it was the newest
                    self._ends.setdefault(older, {e: ends[e] for e in order[:number]})

    def place(self, id):
        """Return the oldest epoch, and the position in it, that is the same as an id's."""
        epoch, _, position = id.rpartition("-")
        return self.same(epoch, int(position)), int(position)

    def same(self, epoch, position):
        ends = self._ends.get(epoch, {})
        return next((older for older, end in ends.items() if position <= end), epoch)

    def kept(self, older, newer):
        """Up to where is the one epoch part of the other? -1 if it is not at all."""
        return float("inf") if older == newer else self._ends.get(newer, {}).get(older, -1)


class Truth:
    """Every event that anybody knows of."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.events = {}  # place -> (topic, publisher, n)
        self.returned = {}  # place -> when publish() had returned
        self._by_topic = defaultdict(set)
        self._sorted = {}

    def add(self, report, id, topic, publisher, n, returned=None):
        place = self.epochs.place(id)
        known = self.events.setdefault(place, (topic, publisher, n))
        if known != (topic, publisher, n):
            report.count("wrong", id, "is", known, "and", (topic, publisher, n))
        if returned is not None:
            self.returned[place] = returned
        self._by_topic[topic].add((place[1], place[0]))
        return place

    def between(self, epoch, topic, after, before=float("inf")):
        """Return the places of a topic's events in an epoch with ``after < position < before``."""
        if topic not in self._sorted:
            self._sorted[topic] = sorted(self._by_topic[topic])
        events = self._sorted[topic]
        found = []
        for position, where in events[bisect_right(events, (after, "~")) :]:
            if position >= before:
                break
            if self.epochs.same(epoch, position) == where:
                found.append((where, position))
        return found


def judge(report, journals, streams, log, *, history_size, grace):
    """Fill in a report from publishers' journals, the streams, and the log at the end."""
    snapshots = [tuple(line[1:]) for lines in journals for line in lines if line[0] == "log"]
    snapshots.append((log["tail"].rpartition("-")[0], log["ancestors"]))
    epochs = Epochs(snapshots)
    truth = Truth(epochs)
    report.epochs = len(epochs.all)
    failed = _judge_publishers(report, journals, truth)
    held = {
        topic: [truth.add(report, id, topic, d["p"], d["n"]) for id, d in history["events"]]
        for topic, history in log["topics"].items()
    }
    for stream in streams:
        for kind, *rest in stream.entries:
            if kind == "event":
                id, envelope = rest
                data = envelope["data"]
                truth.add(report, id, envelope["topic"], data["p"], data["n"])
                if envelope["id"] != id:
                    report.count("wrong", "envelope", envelope["id"], "in block", id)
    _judge_log(report, log, held, truth)
    _judge_appearances(report, truth, failed)
    for stream in streams:
        _Walk(report, truth, stream, history_size, grace).walk(log["tail"])


def _judge_publishers(report, journals, truth):
    failed = set()
    for number, lines in enumerate(journals):
        last = None
        for kind, n, *rest in (line for line in lines if line[0] != "log"):
            topic, at, id = rest
            if kind == "failed":
                report.failed += 1
                failed.add((str(number), n))
                continue
            report.published += 1
            truth.add(report, id, topic, str(number), n, returned=at)
            epoch, _, position = id.rpartition("-")
            if last is not None and int(position) <= last[1] <= truth.epochs.kept(last[0], epoch):
                report.count("reordered", "publisher", number, n, id)
            last = epoch, int(position)
    return failed


def _judge_log(report, log, held, truth):
    """Is what the broker holds in the end all that anybody has seen, in the order of the ids?"""
    epoch = log["tail"].rpartition("-")[0]
    for topic in TOPICS:
        positions = [position for _, position in held.get(topic, ())]
        if positions != sorted(set(positions)):
            report.count("reordered", "in the log of", topic)
        evicted = log["topics"].get(topic, {"evicted": 0})["evicted"]
        gone = set(truth.between(epoch, topic, evicted)) - set(held.get(topic, ()))
        if gone:
            report.count("lost", "from the log itself:", topic, *sorted(gone)[:5], times=len(gone))


def _judge_appearances(report, truth, failed):
    times = Counter(
        (publisher, n) for _, publisher, n in truth.events.values() if publisher != "end"
    )
    for (publisher, n), count in times.items():
        if count > 1:
            report.count("published_twice", publisher, n)
    report.appeared_though_failed = sum(one in times for one in failed)


class _Walk:
    """One stream's entries, from the first to the last."""

    def __init__(self, report, truth, stream, history_size, grace):
        self.report, self.truth, self.stream = report, truth, stream
        self.epochs = truth.epochs
        self.history_size, self.grace = history_size, grace
        self.epoch = None
        self.high = 0  # everything up to here is had or given up: what a resume relies on
        self.had = {}  # by topic: up to where, and None while a reset leaves that open
        self.last = 0  # the position of the last event
        self.seen = set()
        self.told = set()  # of which topics it knows that their beginning is gone

    def walk(self, tail):
        for number, (kind, *rest) in enumerate(self.stream.entries):
            self.where = f"stream {self.stream.name} entry {number}"
            if kind == "reset" and rest[0] == "earliest":  # what is kept comes after it
                self.report.resets[rest[2]] += 1
                self.told = set().union(*map(covered, rest[1]))
                self.had |= dict.fromkeys(self.told & set(self.had))
            elif kind in ("mark", "event", "reset") and rest[0] != "earliest":
                getattr(self, kind)(*rest)
        self.where = f"stream {self.stream.name} at the end"
        self._enter(tail)
        for topic, had in self.had.items():
            self._missing(topic, had)

    def _enter(self, id):
        """Move on to the epoch of an id, and return its position."""
        epoch, _, position = id.rpartition("-")
        position = int(position)
        if self.epoch is None:
            earliest = self.stream.entries[0][1] == "earliest"
            self._begin(epoch, 0 if earliest else position)
        elif self.epochs.same(self.epoch, position) != self.epochs.same(epoch, position):
            # What is beyond the end of the older epoch was lost. That needs no reset if the
            # stream had no event from there: it goes on from the end.
            end = self.epochs.kept(self.epoch, epoch)
            if self.last > end:
                self.report.count("lost", self.where, "is told nothing of another log:", id)
                self._begin(epoch, position)
            else:
                self.epoch, self.high = epoch, min(self.high, end)
                self.had = {
                    topic: None if had is None else min(had, end)
                    for topic, had in self.had.items()
                }  # fmt: skip
        return position

    def _begin(self, epoch, position):
        self.epoch = epoch
        self.high, self.last = position, 0
        self.had = dict.fromkeys(self.stream.topics, position)
        self.had |= dict.fromkeys(self.told)
        self.told = set()

    def mark(self, id):
        # An id that goes back is no harm: resuming there repeats nothing, as nothing was between.
        position = self._enter(id)
        self.high = max(self.high, position)

    def event(self, id, envelope):
        self.report.deliveries += 1
        topic = envelope["topic"]
        if topic not in self.stream.topics:
            self.report.count("wrong", self.where, topic, "was not asked for")
            return
        if id in self.seen:
            self.report.count("duplicated", self.where, topic, id)
            return
        self.seen.add(id)
        first = self.epoch is None
        position = self._enter(id)
        if position <= self.high and not first:
            self.report.count("reordered", self.where, topic, id, "after", self.high)
            return
        self._missing(topic, self.had[topic], position)
        self.had[topic] = self.high = self.last = position

    def _missing(self, topic, had, before=float("inf")):
        if had is None:
            return
        lost = self.truth.between(self.epoch, topic, had, before)
        if lost:
            detail = (self.where, topic, "after", had, *(f"{e}-{n}" for e, n in lost[:5]))
            self.report.count("lost", *detail, times=len(lost))

    def reset(self, id, names, reason, at):
        self.report.resets[reason] += 1
        epoch, _, position = id.rpartition("-")
        position = int(position)
        topics = set().union(*map(covered, names))
        if not self._justified(epoch, topics, at):
            detail = (self.where, reason, names, f"{self.epoch}-{self.high}", "->", id)
            self.report.count("unjustified", *detail)
        if set(names) == set(self.stream.names):
            self._begin(epoch, position)
            return
        for topic in topics:
            self.had[topic] = None

    def _justified(self, epoch, topics, at):
        """Had the log lost something that this stream had not had, or had had in vain?"""
        if self.epoch is None or self.high > self.epochs.kept(self.epoch, epoch):
            return True
        returned = self.truth.returned
        return any(
            sum(
                returned.get(place, 0) < at + self.grace
                for place in self.truth.between(epoch, topic, had or 0)
            ) > self.history_size
            for topic, had in self.had.items()
            if topic in topics
        )  # fmt: skip
