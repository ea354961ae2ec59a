"""Browsers that check servers by themselves: each opens the pages it is told to, which report.

No driver is needed, so that every browser which can run a page will do.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import shutil
from pathlib import Path
from urllib.parse import urlencode

from tests.answering import Answering
from tests.processes import Process, wait_until

PAGE = Path(__file__).with_name("lab") / "page.html"
REFUSED = PAGE.with_name("refused.html")
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


class Hub(Answering):
    """Tells one browser what to open, and takes what the pages have seen.

    It is an origin of its own, and serves the page that checks servers too.
    """

    def __init__(self):
        super().__init__()
        #: The same server by another origin.
        self.other_url = f"http://localhost:{self.port}"
        self._orders = queue.SimpleQueue()
        self._reports = {}
        self._numbers = itertools.count(1)

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

    def get(self, path):
        if path == "/next":
            with contextlib.suppress(queue.Empty):
                return self._orders.get(timeout=1)
            return {}
        return {"/": HUB, "/page/": PAGE.read_text(), "/refused/": REFUSED.read_text()}.get(path)

    def post(self, path, body):
        self._reports[path.strip("/")] = body


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
