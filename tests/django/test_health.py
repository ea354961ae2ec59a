"""health/, as a monitor sees it. Brokers that hang: tests/redis and tests/postgres."""

from __future__ import annotations

import threading

import pytest

from flosse_bus import bus, buses
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/events/health/"


class Hangs(MemoryBackend):
    """It does not answer as long as it is not let go, and counts who asks."""

    go = threading.Event()
    asked = 0

    def tail(self):
        Hangs.asked += 1
        assert self.go.wait(20)
        return super().tail()


class Down(MemoryBackend):
    def tail(self):
        raise BackendUnavailable("redis://user:secret@db.internal: no answer")


class Wrong(MemoryBackend):
    def tail(self):
        raise ZeroDivisionError


@pytest.fixture
def hangs(monkeypatch):
    monkeypatch.setattr(Hangs, "go", threading.Event())
    monkeypatch.setattr(Hangs, "asked", 0)
    monkeypatch.setattr("flosse_bus.health.PATIENCE", 0.5)
    yield Hangs
    Hangs.go.set()


@pytest.fixture
def state(client):
    """What the page says of the bus."""

    def state(alias="default"):
        return client.get(URL).json()["buses"][alias]

    return state


def backend(made):
    return f"{made.__module__}.{made.__qualname__}"


def publish(count, topic="news"):
    for number in range(count):
        bus.publish(topic, number, using=None)


QUIET = {
    "status": "ok",
    "streams": 0,
    "pending": 0,
    "lag": 0,
    "counters": {"resets": 0, "overflows": 0, "timeouts": 0, "refused": 0},
}


def test_all_that_it_says(client, subscribe):
    response = client.get(URL)
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "buses": {"default": QUIET},
        "generators": {"streams": 0, "threads": 0},
    }
    assert "no-cache" in response["Cache-Control"]
    stream = subscribe("topic=news")
    next(stream)
    assert client.get(URL).json()["buses"]["default"] == {**QUIET, "streams": 1}


@pytest.mark.parametrize(("method", "status"), [("head", 200), ("get", 200), ("post", 405)])
def test_methods(client, method, status):
    assert getattr(client, method)(URL).status_code == status


def test_one_bus_that_is_down(client, settings, caplog):
    settings.FLOSSE_BUS = {**settings.FLOSSE_BUS, "other": {"BACKEND": backend(Down)}}
    response = client.get(URL)
    assert response.status_code == 503
    assert response.json() == {
        "status": "down",
        "buses": {"default": QUIET, "other": {**QUIET, "status": "down", "lag": None}},
        "generators": {"streams": 0, "threads": 0},
    }
    [record] = caplog.records  # and none of Django's, which would be mailed to the ADMINS
    assert (record.levelname, record.name) == ("WARNING", "flosse_bus")
    assert record.getMessage().startswith("bus 'other' is down, says health/: ")


def test_a_backend_that_hangs_is_down_and_asked_once(client, settings, hangs):
    settings.FLOSSE_BUS = {**settings.FLOSSE_BUS, "slow": {"BACKEND": backend(hangs)}}
    for _ in range(2):
        response = client.get(URL)
        assert response.status_code == 503
        states = response.json()["buses"]
        assert [states[alias]["status"] for alias in ("default", "slow")] == ["ok", "down"]
    assert hangs.asked == 1
    hangs.go.set()
    wait_until(lambda: client.get(URL).status_code == 200, "the backend to be up again")


def test_an_error_of_the_backend_is_not_hidden(client, configure):
    configure(BACKEND=backend(Wrong))
    with pytest.raises(ZeroDivisionError):
        client.get(URL)


def test_what_waits_in_the_slowest_stream(state, subscribe):
    slow, fast = subscribe("topic=news"), subscribe("topic=news")
    for stream in (slow, fast):
        next(stream)
    publish(5)
    wait_until(lambda: state()["pending"] == 5, "5 events to wait")
    assert [fast.event().data for _ in range(5)] == list("01234")
    assert state()["pending"] == 5
    assert [slow.event().data for _ in range(5)] == list("01234")
    assert state()["pending"] == 0


def test_what_waits_in_the_rings_after_an_overflow(state, subscribe, configure):
    configure(MAX_PENDING=2, HISTORY_SIZE=20)
    stream = subscribe("topic=news")
    next(stream)
    publish(1)
    assert stream.event().data == "0"
    publish(10)
    wait_until(lambda: state()["pending"] == 10, "10 events to wait")
    assert state()["counters"] == {"resets": 0, "overflows": 1, "timeouts": 0, "refused": 0}
    assert [stream.event().data for _ in range(10)] == list("0123456789")
    assert state()["pending"] == 0


def test_resets_are_counted(state, subscribe):
    stream = subscribe("topic=news&last_event_id=foreign-1")
    assert stream.event().event == "stream-reset"
    assert state()["counters"] == {"resets": 1, "overflows": 0, "timeouts": 0, "refused": 0}


@pytest.fixture
def busy():
    """Let the hub's event loop be busy with something else, until this is set."""
    done = threading.Event()
    began = threading.Event()

    def work():
        began.set()
        done.wait(20)

    def busy():
        bus.hubs.threaded().hub.loop.call_soon_threadsafe(work)
        assert began.wait(20)
        return done

    yield busy
    done.set()


def test_how_far_a_process_is_behind(state, subscribe, busy, monkeypatch):
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 0.05)
    stream = subscribe("topic=news")
    next(stream)
    publish(3)
    assert [stream.event().data for _ in range(3)] == list("012")
    done = busy()
    publish(7, "orders")
    publish(1)
    assert state()["lag"] == 8
    done.set()
    wait_until(lambda: state()["lag"] == 0, "the hub to catch up")
    assert stream.event().data == "0"


def test_whoever_is_behind_has_a_moment_to_catch_up(state, subscribe, busy, monkeypatch):
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 20)
    stream = subscribe("topic=news")
    next(stream)
    done = busy()
    publish(7)
    threading.Timer(0.02, done.set).start()
    assert state()["lag"] == 0


def test_a_process_without_streams_is_never_behind(state, subscribe):
    stream = subscribe("topic=news")
    next(stream)
    stream.response.close()
    publish(7)
    assert state()["lag"] == 0


def test_another_log_that_has_not_been_noticed(state, subscribe, busy, monkeypatch):
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 0.05)
    stream = subscribe("topic=news")
    next(stream)
    publish(9)
    wait_until(lambda: state()["pending"] == 9, "9 events to wait")
    done = busy()
    bus.backend.flush()
    publish(2)
    assert state()["lag"] == 2
    done.set()
    wait_until(lambda: state()["lag"] == 0, "the hub to catch up")


def test_in_the_event_loop_itself_nobody_is_waited_for(run, aclient, monkeypatch):
    """Sync code that a coroutine calls: its loop could catch up only after it."""
    from flosse_bus.health import bus_states

    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 60)

    async def main():
        async with buses["default"].subscribe("news"):
            await bus.apublish("news", 1, using=None)
            assert bus_states()["default"]["lag"] == 1
            response = await aclient.get(URL)
            assert response.json()["buses"]["default"]["lag"] == 0

    run(main())
