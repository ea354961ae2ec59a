"""What health/ has to say of every backend that is a server."""

from __future__ import annotations

from flosse_bus import bus
from tests.processes import wait_until


def state(client, status=200):
    response = client.get("/events/health/")
    assert response.status_code == status
    return response.json()["buses"]["default"]


def assert_what_nobody_follows_is_no_lag(client, monkeypatch):
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 20)
    with bus.subscribe("a") as events:
        for number in range(3):
            for _ in range(50):
                bus.publish("elsewhere", number, using=None)
            assert state(client)["lag"] == 0
            bus.publish("a", number, using=None)
            assert next(events).data == number
            assert state(client)["lag"] == 0


def assert_nobody_waits_while_it_hangs(client, server, before=lambda: None):
    """``before`` is called when the bus has begun to listen."""
    with bus.subscribe("a"):
        assert state(client)["status"] == "ok"
        before()
        server.pause()
        try:
            told = state(client, 503)
            # Nobody waits for the connection's own patience.
            assert not bus.pulse.ask().done()
        finally:
            server.resume()
        assert (told["status"], told["lag"]) == ("down", None)
        wait_until(lambda: client.get("/events/health/").status_code == 200, "an answer")
