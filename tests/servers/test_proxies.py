"""Behind proxies, as docs/deploy/ configures them: nothing is held back, cut in silence or kept."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from flosse_bus import bus
from tests import TORTURE
from tests.processes import free_port, wait_until
from tests.proxies import HOST, KINDS, Apache, Caddy, HAProxy, Nginx
from tests.servers.test_servers import place, streams
from tests.streams_client import Streams

pytestmark = pytest.mark.server


@pytest.fixture
def secure(certificate):
    """A client that trusts the proxies. It offers gzip, as browsers do."""
    with httpx.Client(timeout=20, trust_env=False, verify=certificate.context) as client:
        assert "gzip" in client.headers["Accept-Encoding"]
        yield client


def binary(kind):
    return kind.binary


#: All are tried for what matters most, and in make torture for everything.
TRIED = KINDS if TORTURE else [Nginx, HAProxy]
each_proxy = pytest.mark.parametrize("proxy", TRIED, ids=binary)
each_impatient_proxy = pytest.mark.parametrize(
    "proxy", [proxy for proxy in TRIED if proxy is not Caddy], ids=binary
)


@pytest.mark.parametrize(
    ("proxy", "server"),
    [*((kind, "uvicorn") for kind in KINDS), (Nginx, "gthread")],
    ids=lambda part: getattr(part, "binary", part),
)
def test_events_arrive_one_by_one_and_a_stream_resumes(
    behind, serve, http, secure, follow, proxy, server
):
    server = serve(server, bus={"HEARTBEAT": 60})
    url = behind(proxy, server.port).url
    assert secure.get(f"{url}/").headers["Content-Encoding"] == "gzip"
    events, response = follow(f"{url}/events/", "orders", client=secure, last_event_id="earliest")
    assert "Content-Encoding" not in response.headers
    place(http, server.url, "Kettle")
    first = next(events)
    assert '"Kettle"' in first.data  # and the second is not yet published
    place(http, server.url, "Grinder")
    assert '"Grinder"' in next(events).data
    response.close()
    place(http, server.url, "Cup and saucer")
    events, _ = follow(f"{url}/events/", "orders", client=secure, last_event_id=first.id)
    assert ['"Grinder"' in next(events).data, '"Cup and' in next(events).data] == [True, True]


@each_proxy
def test_nothing_is_held_back_where_everything_is_compressed(
    behind, serve, http, secure, follow, proxy
):
    """HAProxy and Caddy heed ``no-transform``. The others compress event by event."""
    server = serve("uvicorn", bus={"HEARTBEAT": 60})
    url = behind(proxy, server.port, proxy.compress_all).url
    events, response = follow(f"{url}/events/", "orders", client=secure, last_event_id="earliest")
    assert response.headers.get("Content-Encoding") == (
        "gzip" if proxy in (Nginx, Apache) else None
    )
    for item in ("Kettle", "Grinder", "Cup and saucer"):
        place(http, server.url, item)
        assert f'"{item}"' in next(events).data


def test_nothing_is_held_back_by_one_nginx_in_front_of_another(behind, serve, http, secure, follow):
    """Each heeds ``X-Accel-Buffering``, and by itself would not pass it on."""
    server = serve("uvicorn", bus={"HEARTBEAT": 60})
    inner = behind(Nginx, server.port)
    over_tls = {"proxy_pass http://django;": "proxy_pass https://django;"}
    url = behind(Nginx, inner.port, over_tls).url
    events, _ = follow(f"{url}/events/", "orders", client=secure, last_event_id="earliest")
    for item in ("Kettle", "Grinder"):
        place(http, server.url, item)
        assert f'"{item}"' in next(events).data


@each_impatient_proxy
def test_heartbeats_keep_a_quiet_stream_open(behind, serve, secure, follow, proxy):
    """These close what is silent for their timeout, here 2 s: the stream outlives it."""
    server = serve("uvicorn", bus={"HEARTBEAT": 0.5})
    url = behind(proxy, server.port, proxy.patience).url
    _, response = follow(f"{url}/events/", "news", client=secure)
    beats = (chunk for chunk in response.iter_text() if chunk.startswith("id:"))
    assert all(next(beats) for _ in range(6))


@each_impatient_proxy
def test_who_is_cut_for_being_quiet_loses_nothing(behind, serve, http, certificate, proxy):
    server = serve("uvicorn", bus={"HEARTBEAT": 60})
    proxy = behind(proxy, server.port, proxy.patience)
    with Streams(proxy.port, tls=certificate.context) as clients:
        [before] = clients.begin("orders")
        wait_until(lambda: before.end, "the proxy to cut a quiet stream")
        place(http, server.url, "Kettle")
        [after] = clients.begin("orders", after=before.last_id)
        wait_until(lambda: after.events, "what was missed")
        assert after.data[0]["fields"]["item"] == "Kettle"
    wait_until(lambda: streams(http, server.url) == 0, "both to be gone upstream")


@pytest.mark.parametrize("proxy", KINDS, ids=binary)
def test_an_event_source_that_comes_while_the_server_is_away_comes_back(
    behind, serve, shared_bus, secure, proxy
):
    """It is told nothing but a comment. Whoever asks otherwise sees the error."""
    server = serve("uvicorn", bus=shared_bus)
    url = behind(proxy, server.port, proxy.haste).url
    stream = {"Accept": "text/event-stream"}
    server.stop()
    origin = "https://app.example.com"
    again = secure.get(f"{url}/events/?topic=orders", headers={**stream, "Origin": origin})
    assert again.headers["Access-Control-Allow-Origin"] == origin
    assert again.headers["Access-Control-Allow-Credentials"] == "true"
    assert (again.status_code, again.text) == (200, ":\n\n")
    assert again.headers["Content-Type"].partition(";")[0] == "text/event-stream"
    assert again.headers["Cache-Control"] == "no-store"
    for method, path, headers in [
        ("GET", "/events/?topic=orders", {}),
        ("GET", "/events/health/", {}),
        ("GET", "/", {"Accept": "text/html,*/*"}),
        ("POST", "/events/?topic=orders", stream),
    ]:
        assert secure.request(method, f"{url}{path}", headers=headers).status_code in (502, 503)
    serve("uvicorn", port=server.port, bus=shared_bus)
    with secure.stream("GET", f"{url}/events/?topic=orders", headers=stream) as opened:
        assert next(opened.iter_text()).startswith("retry: ")


class Full(BaseHTTPRequestHandler):
    """A server that refuses by itself, as uvicorn does over ``--limit-concurrency``."""

    def do_GET(self):
        self.send_response(503)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"Full")

    def log_message(self, *args):
        pass


@pytest.fixture
def full():
    """The port of such a server."""
    with ThreadingHTTPServer((HOST, 0), Full) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("proxy", KINDS, ids=binary)
def test_what_a_server_refuses_by_itself(behind, full, secure, proxy):
    """HAProxy makes a stream of it, for an EventSource. No other request's answer is touched."""
    url = f"{behind(proxy, full).url}/events/?topic=orders"
    for accept in ["text/event-stream", "*/*"]:
        answer = secure.get(url, headers={"Accept": accept})
        kind = answer.headers["Content-Type"].partition(";")[0]
        again = proxy is HAProxy and accept != "*/*"
        assert (answer.status_code, kind, answer.text) == (
            (200, "text/event-stream", ":\n\n") if again else (503, "text/plain", "Full")
        )


@each_proxy
def test_a_restart_loses_nothing(behind, serve, shared_bus, certificate, secure, proxy):
    """HAProxy and Caddy let those wait who come meanwhile. nginx and Apache refuse them."""
    server = serve("uvicorn", bus=shared_bus)
    front = behind(proxy, server.port)
    patient = proxy in (HAProxy, Caddy)
    with Streams(front.port, tls=certificate.context) as clients:
        before = clients.begin("load.x", count=30)
        bus.publish("load.x", 1)
        wait_until(lambda: all(s.data == [1] for s in before), "the first event")
        server.stop()
        wait_until(lambda: all(s.end for s in before), "the streams to end")
        bus.publish("load.x", 2)
        meanwhile = clients.open("load.x", after=before[0].last_id)
        if not patient:
            wait_until(lambda: meanwhile[0].status in (502, 503), "a refusal")
        serve("uvicorn", bus=shared_bus, port=server.port)
        back = clients.begin("load.x", count=30, after=[s.last_id for s in before])
        bus.publish("load.x", 3)
        if patient:
            back += meanwhile
        wait_until(lambda: all(len(s.events) >= 2 for s in back), "all that was missed")
        assert [s.data for s in back] == [[2, 3]] * len(back)


@each_proxy
def test_a_restart_without_a_broker_is_told(behind, serve, http, secure, follow, proxy):
    server = serve("uvicorn")
    url = behind(proxy, server.port).url
    events, _ = follow(f"{url}/events/", "orders", client=secure, last_event_id="earliest")
    place(http, server.url)
    last_id = next(events).id
    http.close()
    server.stop()
    server = serve("uvicorn", port=server.port)
    events, _ = follow(f"{url}/events/", "orders", client=secure, last_event_id=last_id)
    assert next(events).event == "stream-reset"


@each_proxy
def test_who_leaves_is_gone_upstream(behind, serve, http, certificate, proxy):
    """At once. Apache finds out only when it has something to send, such as a heartbeat."""
    server = serve("uvicorn", bus={"HEARTBEAT": 0.5 if proxy is Apache else 60})
    proxy = behind(proxy, server.port)
    with Streams(proxy.port, tls=certificate.context) as clients:
        some = clients.begin("orders", count=40)
        assert streams(http, server.url) == 40
        clients.cut(*some[10:])
        wait_until(lambda: streams(http, server.url) == 10, "thirty to be gone")
        place(http, server.url, "Kettle")
        wait_until(lambda: all(s.events for s in some[:10]), "ten to hear")
    wait_until(lambda: streams(http, server.url) == 0, "the rest to be gone")


@each_proxy
def test_many_streams_share_a_connection_of_http_2(behind, serve, http, certificate, follow, proxy):
    """Six connections to a host are all that a browser opens. Here twenty streams take one."""
    server = serve("uvicorn", bus={"HEARTBEAT": 0.5 if proxy is Apache else 60})
    url = behind(proxy, server.port).url
    with httpx.Client(
        timeout=20, trust_env=False, verify=certificate.context, http2=True
    ) as client:
        if proxy is Apache:  # which begins with six requests at a time, for whom it does not know
            assert {client.get(f"{url}/login/").status_code for _ in range(30)} == {200}
        followed = [follow(f"{url}/events/", "orders", client=client) for _ in range(20)]
        responses = [response for _, response in followed]
        assert {response.http_version for response in responses} == {"HTTP/2"}
        connections = {
            response.extensions["network_stream"].get_extra_info("client_addr")
            for response in responses
        }
        assert len(connections) == 1
        for item in ("Kettle", "Grinder"):
            place(http, server.url, item)
            assert all(f'"{item}"' in next(events).data for events, _ in followed)
        assert client.get(f"{url}/events/health/").json()["buses"]["default"]["streams"] == 20
    wait_until(lambda: streams(http, server.url) == 0, "the rest to be gone")


@each_impatient_proxy  # Caddy does it by itself
def test_plain_http_leads_to_https(behind, http, proxy):
    port = behind(proxy, free_port()).plain_port
    answer = http.get(f"http://{HOST}:{port}/events/?topic=news")
    assert answer.is_redirect
    assert answer.headers["Location"].startswith("https://")
    assert answer.headers["Location"].endswith("/events/?topic=news")


@each_proxy
def test_clients_are_told_apart(behind, serve, certificate, proxy):
    """By the address that the proxy saw, whatever they say of themselves."""
    server = serve("uvicorn", bus={"MAX_STREAMS_PER_CLIENT": 1})
    url = f"{behind(proxy, server.port).url}/events/?topic=news"
    with contextlib.ExitStack() as stack:

        def status(address, **headers):
            transport = httpx.HTTPTransport(verify=certificate.context, local_address=address)
            client = stack.enter_context(httpx.Client(transport=transport, timeout=20))
            return stack.enter_context(client.stream("GET", url, headers=headers)).status_code

        assert [status("127.0.0.2"), status("127.0.0.3"), status("127.0.0.2")] == [200, 200, 429]
        assert status("127.0.0.2", **{"X-Forwarded-For": "192.0.2.1"}) == 429
