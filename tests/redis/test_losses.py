"""History that Redis loses, and history that it keeps through something that looks like it."""

from __future__ import annotations

import pytest
import redis

from flosse_bus.backends.redis.connections import parse_info
from flosse_bus.cursor import Cursor
from flosse_bus.exceptions import BackendUnavailable, HistoryGone
from tests.brokers import RedisServer
from tests.processes import wait_until
from tests.redis.help import bus_at, publish, round_trip, taken

APPEND_ALWAYS = ["--appendonly", "yes", "--appendfsync", "always"]


def test_flushall_resets_open_streams_and_cursors(redis_server, redis_url):
    with bus_at(redis_url) as bus:
        before = publish(bus, "a", 1)
        with bus.subscribe("a", after=before.id) as events:
            redis_server.execute("FLUSHALL")
            assert taken(events, 1) == ["unknown"]  # though nothing is published
            publish(bus, "a", 2)
            assert taken(events, 1) == [2]
        with bus.subscribe("a", after=before.id) as events:
            assert taken(events, 1) == ["unknown"]
        with pytest.raises(HistoryGone):
            bus.history("a", after=before.id)


def test_a_script_flush_changes_nothing(redis_server, redis_url):
    with bus_at(redis_url) as bus, bus.subscribe("a") as events:
        for n in range(3):
            redis_server.execute("SCRIPT", "FLUSH")
            publish(bus, "a", n)
        assert taken(events, 3) == [0, 1, 2]
        redis_server.execute("SCRIPT", "FLUSH")
        assert [event.data for event in bus.history("a")] == [0, 1, 2]
        assert bus.cursor() == bus.history("a")[-1].id


@pytest.mark.parametrize("key", ["log", "heads"])
def test_a_log_whose_books_are_evicted_is_a_new_one(redis_server, redis_url, key):
    with bus_at(redis_url) as bus:
        before = publish(bus, "a", 1)
        publish(bus, "b", 1)
        with bus.subscribe("a", "b") as events:
            redis_server.execute("DEL", f"{{flosse}}:{key}")
            assert taken(events, 1) == ["unknown"]
            after = publish(bus, "a", 2)
            assert taken(events, 1) == [2]
        assert after.id.partition("-")[0] != before.id.partition("-")[0]
        # What the old log has left behind is not taken for the new one's.
        assert [event.data for event in bus.history("a")] == [2]
        assert bus.history("b") == []


def test_a_topic_whose_history_is_evicted_resets_who_needs_it(redis_server, redis_url):
    with bus_at(redis_url) as bus:
        first, other = publish(bus, "a", 1), publish(bus, "b", 1)
        publish(bus, "a", 2)
        with bus.subscribe("a", "b") as events:
            redis_server.execute("DEL", "{flosse}:s:a")
            publish(bus, "b", 2)
            publish(bus, "a", 3)
            assert taken(events, 2) == [2, 3]  # who was there has had it all
        assert [event.data for event in bus.history("a")] == [3]
    with bus_at(redis_url) as bus:  # as another process, without what the first one remembers
        with bus.subscribe("a", after=first.id) as events:
            assert taken(events, 1) == ["expired"]
        with bus.subscribe("b", after=other.id) as events:
            assert taken(events, 1) == [2]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru"])
def test_eviction_is_never_silent(tmp_path, policy):
    """A small Redis under maxmemory: each resume is complete, or a reset."""
    args = ["--maxmemory", "3mb", "--maxmemory-policy", policy]
    with RedisServer(tmp_path, args=args) as server, bus_at(server.url) as bus:
        sent = [publish(bus, f"t.{n % 10}", [n, "x" * 20_000]) for n in range(300)]
        assert server.info("stats")["evicted_keys"] > 0
        resets = 0
        for index in range(0, 300, 23):
            topic = sent[index].topic
            wanted = [e.data[0] for e in sent[index + 1 :] if e.topic == topic]
            with bus.subscribe(topic, after=sent[index].id) as events:
                last = publish(bus, topic, [index + 1000])
                got = []
                while got[-1:] != [last.data[0]]:
                    event = next(events)
                    if event.event == "stream-reset":
                        break
                    got.append(event.data[0])
                else:
                    assert [n for n in got if n < 1000] == wanted
                    continue
                resets += 1
        assert resets > 0


def test_a_full_redis_refuses_and_loses_nothing(tmp_path):
    args = ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]
    with RedisServer(tmp_path, args=args) as server, bus_at(server.url) as bus:
        first = publish(bus, "a", 0)
        kept = []
        with pytest.raises(BackendUnavailable, match="maxmemory"):
            for n in range(1000):
                bus.publish("a", [n, "x" * 20_000], using=None)
                kept.append(n)
        assert [event.data[0] for event in bus.history("a", after=first.id)] == kept


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_without_persistence_resets(tmp_path, kill):
    with RedisServer(tmp_path) as server, bus_at(server.url) as bus:
        before = publish(bus, "a", 1)
        with bus.subscribe("a", after=before.id) as events:
            server.restart(kill=kill)
            assert taken(events, 1) == ["unknown"]
            publish(bus, "a", 2)
            assert taken(events, 1) == [2]


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_with_everything_on_disk_carries_on(tmp_path, kill):
    with RedisServer(tmp_path, args=APPEND_ALWAYS) as server, bus_at(server.url) as bus:
        sent = [publish(bus, "a", n) for n in range(4)]
        with bus.subscribe("a", after=sent[0].id) as events, bus.subscribe("b") as others:
            assert taken(events, 2) == [1, 2]
            server.restart(kill=kill)
            sent.append(publish(bus, "a", 4))
            publish(bus, "b", 5)
            assert taken(events, 2) == [3, 4]
            assert taken(others, 1) == [5]
        # Positions may have been given anew, for all that Redis can tell: another epoch, which
        # goes on from the one before.
        assert sent[4].id.partition("-")[0] != sent[3].id.partition("-")[0]
        with bus.subscribe("a", after=sent[2].id) as events:
            assert taken(events, 2) == [3, 4]
        assert bus.history("a") == sent


def test_a_restart_with_older_data_resets_who_has_had_what_is_gone(tmp_path):
    with RedisServer(tmp_path) as server, bus_at(server.url) as bus:
        old = publish(bus, "a", "saved")
        quiet = publish(bus, "b", "saved too")
        with bus.subscribe("a", after=old.id) as events, bus.subscribe("b") as others:
            server.execute("SAVE")
            gone = publish(bus, "a", "gone")
            assert taken(events, 1) == ["gone"]
            server.kill()
            server.start()
            assert taken(events, 1) == ["unknown"]
            new = publish(bus, "a", "new")
            publish(bus, "b", "for the others")
            # The same position, for something else.
            assert new.id.partition("-")[2] == gone.id.partition("-")[2]
            assert taken(events, 1) == ["new"]
            assert taken(others, 1) == ["for the others"]  # whose history is whole
        for after, topic, wanted in [
            (gone.id, "a", ["unknown"]), (old.id, "b", ["saved too", "for the others"]),
            (quiet.id, "a", ["new"]), (new.id, "b", ["for the others"]),
        ]:  # fmt: skip
            with bus.subscribe(topic, after=after) as events:
                assert taken(events, len(wanted)) == wanted


def test_dead_topics_leave_nothing_behind(redis_server, redis_url):
    with bus_at(redis_url, history_ttl=0.05) as bus:
        for n in range(30):
            publish(bus, f"dead.{n}", n)
        wait_until(lambda: not redis_server.execute("KEYS", "{flosse}:s:dead.*"), "expiry")
        before = bus.cursor()
        for n in range(40):
            publish(bus, "living", n)
        assert redis_server.execute("ZRANGE", "{flosse}:heads", 0, -1) == ["", "living"]
    with bus_at(redis_url) as bus:  # where history lasts longer than this may take
        again = publish(bus, "dead.3", "again")
        with bus.subscribe("dead.3", after=before) as events:
            assert taken(events, 1) == ["again"]
        assert redis_server.execute("TYPE", "{flosse}:log") == "hash"
        with redis.Redis.from_url(redis_url) as client:
            assert client.ttl("{flosse}:log") == -1
        assert again.data == "again"


def test_a_master_that_comes_back_from_following_gives_no_position_twice(tmp_path):
    """A replica that was behind has taken over, unused, and the old process is master again."""
    with RedisServer(tmp_path / "a") as old, RedisServer(tmp_path / "b") as other:
        other.execute("REPLICAOF", "127.0.0.1", old.port)
        wait_until(lambda: other.info("replication")["master_link_status"] == "up", "the replica")
        with bus_at(old.url) as bus:
            kept = publish(bus, "a", "kept")
            with bus.subscribe("a", after=kept.id) as events, bus.subscribe("b") as others:
                hub = bus.hubs.threaded().hub
                wait_until(lambda: other.execute("EXISTS", "{flosse}:s:a"), "the first event")
                other.execute("REPLICAOF", "NO", "ONE")
                lost = [publish(bus, "a", n) for n in range(3)]
                assert taken(events, 3) == [0, 1, 2]
                old.execute("REPLICAOF", "127.0.0.1", other.port)
                wait_until(lambda: not _has(old, lost[0]), "the old one to follow")
                old.execute("REPLICAOF", "NO", "ONE")
                new = [publish(bus, "a", f"new {n}") for n in range(4)]
                publish(bus, "b", "of others")
                wait_until(lambda: hub.board.epoch == new[0].id.partition("-")[0], "the hub")
                new.append(publish(bus, "a", "new 4"))
                assert taken(events, 1) == ["unknown"]
                got = taken(events, 1)  # what there was at the time of the reset, it stands for
                while got[-1] != "new 4":
                    got += taken(events, 1)
                assert got == [f"new {n}" for n in range(5)][-len(got) :]
                assert taken(others, 1) == ["of others"]
            assert not {event.id for event in lost} & {event.id for event in new}
        with bus_at(old.url) as bus:
            for after, wanted in ((lost[2], "unknown"), (kept, "new 0"), (new[0], "new 1")):
                with bus.subscribe("a", after=after.id) as events:
                    assert taken(events, 1) == [wanted]


def _has(server, event):
    position = event.id.partition("-")[2]
    return server.execute("XRANGE", f"{{flosse}}:s:{event.topic}", position, position)


HIDING = ["--rename-command", "INFO", ""]


@pytest.mark.parametrize("args", [[], HIDING], ids=["run_id", "INFO"])
def test_a_redis_that_hides_which_run_it_is_works(tmp_path, monkeypatch, args):
    for module in ("connections", "listener"):
        monkeypatch.setattr(f"flosse_bus.backends.redis.{module}.parse_info", _hiding)
    with RedisServer(tmp_path, args=args) as server, bus_at(server.url) as bus:
        round_trip(bus)
        old = publish(bus, "a", "saved")
        with bus.subscribe("a", after=old.id) as events, bus.subscribe("b") as others:
            server.execute("SAVE")
            gone = [publish(bus, "a", n) for n in range(3)]
            assert taken(events, 3) == [0, 1, 2]
            hub = bus.hubs.threaded().hub
            wait_until(lambda: hub.board.tail == _cursor(gone[-1]), "the hub to know the tail")
            server.kill()
            server.start()
            assert taken(events, 1) == ["unknown"]  # though nothing is published
            new = publish(bus, "a", "new")
            assert taken(events, 1) == ["new"]
            publish(bus, "b", "of others")
            # Without any name for it nobody knows up to where it is the log that it was.
            assert taken(others, 1) == ["unknown" if args else "of others"]
        assert new.id not in {event.id for event in gone}
        with bus.subscribe("a", after=gone[0].id) as events:
            assert taken(events, 1) == ["unknown"]


def _hiding(text):
    return {
        key: value for key, value in parse_info(text).items()
        if key not in (b"run_id", b"process_id")
    }  # fmt: skip


def _cursor(event):
    return Cursor.parse(event.id)


def test_a_clock_that_is_set_back_leaves_no_hole(redis_server, redis_url):
    """Of what has expired and what is before it nothing is kept, whatever the dates say."""
    key = "{flosse}:s:a"
    with bus_at(redis_url, history_ttl=60) as bus:
        start = bus.cursor()
        sent = [publish(bus, "a", n) for n in range(4)]
        entries = redis_server.execute("XRANGE", key, "-", "+")
        for wrong, left in (({0: 10_000, 1: -100}, 2), ({0: 10_000, 3: -100}, 0)):
            redis_server.execute("DEL", key)
            for n, (id, fields) in enumerate(entries):
                head, _, body = fields["e"].partition("\n")
                words = head.split(" ")
                words[4] = f"{float(words[4]) + wrong.get(n, 0):.6f}"
                redis_server.execute("XADD", key, id, "e", " ".join(words) + "\n" + body)
            history = bus.backend.read(["a"]).topics["a"]
            assert [r.position for r in history.records] == [3, 4][2 - left :]
            assert history.evicted == 4 - left
            for after in (start, sent[0].id):
                with pytest.raises(HistoryGone):
                    bus.history("a", after=after)
