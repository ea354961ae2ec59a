"""Where the clients take their orders, and write down what they have seen.

A host is a program in which clients run: node, Python or a browser. It asks for orders at
``/orders/HOST`` and posts entries, one JSON object a line, to ``/seen/``.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import queue
import threading
from collections import defaultdict

from tests.processes import free_port

#: A browser's first page: it passes orders on to the pages of its clients, and takes what they say.
PAGE = """<!doctype html><meta charset="utf-8"><title>Clients</title><script type="module">
const host = location.pathname.split("/")[1];
const frames = new Map(), said = [];
let posting = false;
async function post() {
  if (posting) return;
  posting = true;
  while (said.length) {
    const body = said.splice(0).map((entry) => JSON.stringify(entry)).join("\\n");
    await fetch("/seen/", { method: "POST", body });
  }
  posting = false;
}
addEventListener("message", ({ data }) => { said.push(data); post(); });
for (;;) {
  const order = await (await fetch(`/orders/${host}`)).json();
  if (!order.run) continue;
  if (order.page) {
    frames.get(order.client)?.remove();
    const frame = document.createElement("iframe");
    frame.src = order.page;
    frames.set(order.client, frame);
    await new Promise((resolve) => { frame.onload = resolve; document.body.append(frame); });
  }
  if (order.leave) {
    frames.get(order.client)?.remove();
    continue;
  }
  frames.get(order.client).contentWindow.postMessage(order, "*");
}
</script><body></body>"""


class Desk:
    """The orders of all hosts, and what their clients have seen."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._orders = defaultdict(queue.SimpleQueue)
        self._seen = defaultdict(list)
        self._numbers = itertools.count(1)
        #: Hosts that have asked for orders.
        self.present = set()
        desk = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                desk._get(self)

            def do_POST(self):
                desk._post(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, address):
                pass  # a host has gone

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def start(self, host, client, **order):
        """Have a client of a host follow ``url``, and return the number of the run."""
        run = next(self._numbers)
        self._orders[host].put({"run": run, "client": client, **order})
        return run

    def stop(self, host, client, run, *, leave=False):
        """Have it close its stream, or leave its page."""
        order = {"run": run, "client": client, "leave" if leave else "stop": True}
        self._orders[host].put(order)

    def seen(self, run):
        """Return what a run has seen up to now: a list of entries."""
        return list(self._seen[run])

    # In threads of the server

    def _get(self, request):
        path = request.path
        if path.startswith("/orders/"):
            host = path.removeprefix("/orders/")
            self.present.add(host)
            order = {}
            with contextlib.suppress(queue.Empty):
                order = self._orders[host].get(timeout=1)
            self._answer(request, json.dumps(order), "application/json")
        else:
            self._answer(request, PAGE, "text/html; charset=utf-8")

    def _post(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        for line in filter(None, body.split("\n")):
            entry = json.loads(line)
            self._seen[entry.pop("run")].append(entry)
        self._answer(request, "", "text/plain")

    def _answer(self, request, body, content_type):
        encoded = body.encode()
        with contextlib.suppress(OSError):  # the host has gone
            request.send_response(200)
            request.send_header("Content-Type", content_type)
            request.send_header("Content-Length", str(len(encoded)))
            request.send_header("Cache-Control", "no-store")
            request.end_headers()
            request.wfile.write(encoded)
