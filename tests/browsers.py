"""Browsers that check servers by themselves: each opens the pages it is told to, which report.

No driver is needed, so that every browser which can run a page will do.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import queue
import shutil
import threading
from pathlib import Path
from urllib.parse import urlencode

from tests.processes import Process, free_port, wait_until

PAGE = Path(__file__).with_name("lab") / "page.html"
#: The page that a browser begins with. It shows others in frames, as long as they are needed.
HUB = """<!doctype html><meta charset="utf-8"><title>Hub</title><script type="module">
for (;;) {
  const { open, close } = await (await fetch("/next")).json();
  if (open) {
    const frame = document.createElement("iframe");
    [frame.id, frame.src] = open;
    document.body.append(frame);
  }
  if (close) document.getElementById(close)?.remove();
}
</script><body></body>"""

EXECUTABLES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "firefox": ("firefox-esr", "firefox"),
}
CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
FIREFOX = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.ipc.processCount": 2,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,",
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}


def executable(kind):
    """Return the path of a browser's program, or ``None``."""
    return next(filter(None, map(shutil.which, EXECUTABLES[kind])), None)


class Hub:
    """Tells one browser what to open, and takes what the pages have seen.

    It is an origin of its own, and serves the page that checks servers too.
    """

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        #: The same server by another origin.
        self.other_url = f"http://localhost:{self.port}"
        self._orders = queue.SimpleQueue()
        self._reports = {}
        self._numbers = itertools.count(1)
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.get(self)

            def do_POST(self):
                hub.post(self)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def open(self, page, **params):
        """Have the browser open a page in a frame of its own, and return its number."""
        number = f"page-{next(self._numbers)}"
        query = urlencode({**params, "report": f"{self.url}/{number}"})
        self._orders.put({"open": [number, f"{page}?{query}"]})
        return number

    def seen(self, number):
        """Wait for a page's report, and close it."""
        wait_until(lambda: number in self._reports, f"the report of {number}")
        self._orders.put({"close": number})
        return json.loads(self._reports.pop(number))

    # In threads of the server

    def get(self, request):
        path = request.path.partition("?")[0]
        if path == "/next":
            order = {}
            with contextlib.suppress(queue.Empty):
                order = self._orders.get(timeout=1)
            self._answer(request, json.dumps(order), "application/json")
        elif path in ("/", "/page/"):
            body = HUB if path == "/" else PAGE.read_text()
            self._answer(request, body, "text/html; charset=utf-8")
        else:
            self._answer(request, "", "text/plain", 404)

    def post(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self._reports[request.path.strip("/")] = body
        self._answer(request, "", "text/plain")

    def _answer(self, request, body, content_type, status=200):
        encoded = body.encode()
        with contextlib.suppress(OSError):  # the browser has gone
            request.send_response(status)
            request.send_header("Content-Type", content_type)
            request.send_header("Content-Length", str(len(encoded)))
            request.end_headers()
            request.wfile.write(encoded)


def launch(kind, url, directory, *options):
    """Start a browser with a profile of its own at a page."""
    program = executable(kind)
    if kind == "firefox":
        preferences = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});"
            for name, value in FIREFOX.items()
        ]
        (directory / "user.js").write_text("\n".join(preferences))
        command = ["--headless", "--no-remote", "--profile", str(directory)]
    else:
        command = [*CHROMIUM, f"--user-data-dir={directory}"]
    return Process(
        [program, *command, *options, url], log=directory / "browser.log",
        env={"HOME": str(directory)},
    )  # fmt: skip
