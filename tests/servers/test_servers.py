"""The example project under real servers: changes arrive, cut streams resume, stops are clean."""

from __future__ import annotations

import json
import re
import signal
import threading

import httpx
import pytest

from tests.processes import wait_until

pytestmark = [pytest.mark.server, pytest.mark.measured]

SERVERS = ["uvicorn", "gthread"]


def place(http, url, item="Kettle"):
    """Order something, as the page does."""
    form = {"customer": 1, "item": item, "quantity": 1}
    page = http.get(url).text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    answer = http.post(
        f"{url}/orders/place/",
        data=form,
        headers={"X-CSRFToken": token, "Accept": "application/json"},
    )
    assert answer.status_code == 204, answer.text


def log_in(http, url):
    page = http.get(f"{url}/login/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    form = {"username": "demo", "password": "demo", "csrfmiddlewaretoken": token}
    assert http.post(f"{url}/login/", data=form).status_code == 302


def streams(http, url):
    return http.get(f"{url}/events/health/").json()["buses"]["default"]["streams"]


@pytest.mark.parametrize("kind", SERVERS)
def test_changes_arrive_and_a_cut_stream_resumes(serve, http, follow, kind):
    server = serve(kind)
    events, response = follow(f"{server.url}/events/", "orders")
    wait_until(lambda: streams(http, server.url) == 1, "the stream to open")
    place(http, server.url)
    first = next(events)
    assert first.event == "shop.order.created"
    assert json.loads(first.data)["fields"]["item"] == "Kettle"

    response.close()
    for item in ("Grinder", "Kettle", "Cup and saucer"):
        place(http, server.url, item)
    events, _ = follow(f"{server.url}/events/", "orders", last_event_id=first.id)
    missed = [json.loads(next(events).data)["fields"]["item"] for _ in range(3)]
    assert missed == ["Grinder", "Kettle", "Cup and saucer"]
    place(http, server.url, "House blend, 1 kg")
    assert json.loads(next(events).data)["fields"]["item"] == "House blend, 1 kg"


def test_fifty_streams_end_cleanly_when_the_server_stops(serve, http):
    """Under ASGI: see test_asgi.py."""
    server = serve("gthread", bus={"HEARTBEAT": 60})
    ends, opened = [], []

    def follow():
        with httpx.stream(
            "GET", f"{server.url}/events/?topic=orders", timeout=60, trust_env=False
        ) as response:
            chunks = response.iter_bytes()
            next(chunks)
            opened.append(1)
            for _ in chunks:
                pass
            ends.append("clean")  # httpx raises when a chunked body is cut off

    threads = [threading.Thread(target=follow) for _ in range(50)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(opened) == 50, "50 streams to open")
    assert streams(http, server.url) == 50
    http.close()
    server.stop(signal.SIGTERM, timeout=20)
    for thread in threads:
        thread.join(20)
    assert ends == ["clean"] * 50
    assert "Traceback" not in server.output()


def test_clients_that_go_leave_nothing_behind(serve, http, follow):
    server = serve("gthread", bus={"HEARTBEAT": 0.2})
    responses = [follow(f"{server.url}/events/", "orders")[1] for _ in range(5)]
    wait_until(lambda: streams(http, server.url) == 5, "5 streams to open")
    for response in responses:
        response.close()
    wait_until(lambda: streams(http, server.url) == 0, "5 streams to be noticed gone")
    assert "Traceback" not in server.output()
    assert server.output().count("stream closed after") == 5


@pytest.mark.parametrize("kind", SERVERS)
def test_heartbeats_let_a_quiet_stream_resume(serve, http, follow, kind):
    """The id that a quiet stream holds is the bus's, not the topic's last."""
    server = serve(kind, bus={"HEARTBEAT": 0.2, "HISTORY_SIZE": 2})
    _, response = follow(f"{server.url}/events/", "news")
    chunks = response.iter_text()
    next(chunks)
    for _ in range(4):
        place(http, server.url)
    beats = (
        re.search(r"id: (\S+-(\d+))\nevent: stream-ping\ndata: {}\n\n$", chunk) for chunk in chunks
    )
    last_id = next(match[1] for match in beats if int(match[2]) >= 12)
    response.close()
    events, _ = follow(f"{server.url}/events/", "news", "orders", last_event_id=last_id)
    place(http, server.url)
    assert next(events).event == "shop.order.created"  # and no stream-reset before it


@pytest.mark.parametrize("kind", SERVERS)
def test_a_restart_is_told(serve, http, follow, kind):
    server = serve(kind)
    events, response = follow(f"{server.url}/events/", "orders", last_event_id="earliest")
    place(http, server.url)
    last_id = next(events).id
    response.close()
    server.stop()
    server = serve(kind, port=server.port)
    events, _ = follow(f"{server.url}/events/", "orders", last_event_id=last_id)
    reset = next(events)
    assert (reset.event, json.loads(reset.data)["reason"]) == ("stream-reset", "unknown")
    place(http, server.url)
    assert next(events).event == "shop.order.created"


@pytest.mark.parametrize("kind", SERVERS)
def test_open_streams_hold_no_database_connection(
    serve, http, follow, kind, postgres_database, redis_url
):
    """Logged-in streams on PostgreSQL, sessions in Redis: twice as many as it has connections
    would not fit if each kept one, as it does when Django keeps the thread."""
    import psycopg

    env = {"TESTPROJECT_POSTGRES": postgres_database, "TESTPROJECT_REDIS": redis_url}
    server = serve(kind, env=env)
    log_in(http, server.url)
    with psycopg.connect(postgres_database, autocommit=True) as connection:

        def count():
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            return connection.execute(query).fetchone()[0]

        [customer] = connection.execute("SELECT min(id) FROM shop_customer").fetchone()
        for _ in range(45):
            follow(f"{server.url}/events/", f"customers.{customer}")
        wait_until(lambda: streams(http, server.url) == 45, "45 streams to open")
        wait_until(lambda: count() <= 3, "connections to be given back")
