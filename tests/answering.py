"""A small server in a thread, for programs that the suite starts: they ask it, and tell it."""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
from abc import ABC, abstractmethod

from tests.processes import free_port


class Answering(ABC):
    """Made by whoever has something to say: what it overrides is called in threads of the server."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        answering = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                _answer(self, answering.get(self.path.partition("?")[0]))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answering.post(self.path, body)
                _answer(self, "")

            def log_message(self, *args):
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @abstractmethod
    def get(self, path):
        """Return the page that is at a path, something else as JSON, or ``None``: nothing is."""

    @abstractmethod
    def post(self, path, body):
        """Take what a program says."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, address):
        if not isinstance(sys.exc_info()[1], OSError):  # that is: the program has gone
            super().handle_error(request, address)


def _answer(request, content):
    if isinstance(content, str):
        body, content_type = content, "text/html; charset=utf-8"
    else:
        body, content_type = json.dumps(content), "application/json"
    encoded = body.encode()
    with contextlib.suppress(OSError):  # the program has gone
        request.send_response(404 if content is None else 200)
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(encoded)))
        request.send_header("Cache-Control", "no-store")
        request.end_headers()
        request.wfile.write(encoded)
