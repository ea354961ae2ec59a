"""Behind nginx as it is configured by default, buffering and gzip on: nothing is held back."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.conftest import missing
from tests.processes import Process, accepts, free_port
from tests.servers.test_servers import place

pytestmark = pytest.mark.server

CONFIG = """
{user}
daemon off;
error_log {directory}/error.log;
pid {directory}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    gzip on;
    gzip_types text/event-stream;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_read_timeout 2s;
        }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path):
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if binary is None:
        missing("no nginx on this machine")
    started = []

    def nginx(upstream):
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        config = tmp_path / "nginx.conf"
        config.write_text(
            CONFIG.format(directory=tmp_path, port=port, upstream=upstream, user=user)
        )
        process = Process(
            [binary, "-p", str(tmp_path), "-c", str(config)], log=tmp_path / "nginx.log"
        )
        started.append(process)
        process.wait_for(lambda: accepts(port), "nginx")
        return f"http://127.0.0.1:{port}"

    yield nginx
    for process in started:
        process.stop()


@pytest.mark.parametrize("kind", ["uvicorn", "gthread"])
def test_events_pass_and_a_cut_stream_resumes(serve, nginx, http, follow, kind):
    server = serve(kind, bus={"HEARTBEAT": 0.5})
    url = nginx(server.port)
    events, response = follow(f"{url}/events/", "orders", last_event_id="earliest")
    assert "X-Accel-Buffering" not in response.headers  # nginx has heeded it
    place(http, server.url, "Kettle")
    first = next(events)
    response.close()
    place(http, server.url, "Grinder")
    events, _ = follow(f"{url}/events/", "orders", last_event_id=first.id)
    assert '"Grinder"' in next(events).data


def test_heartbeats_keep_a_quiet_stream_open(serve, nginx, http, follow):
    """nginx closes what is silent for its read timeout, here 2 s: the stream outlives it."""
    server = serve("uvicorn", bus={"HEARTBEAT": 0.5})
    url = nginx(server.port)
    _, response = follow(f"{url}/events/", "news")
    beats = (chunk for chunk in response.iter_text() if chunk.startswith("id:"))
    assert all(next(beats) for _ in range(6))
