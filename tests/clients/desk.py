"""Where the clients take their orders, and write down what they have seen.

A host is a program in which clients run: node, Python or a browser. It asks for orders at
``/orders/HOST`` and posts entries, one JSON object a line, to ``/seen/``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
from collections import defaultdict

from tests.answering import Answering

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


class Desk(Answering):
    """The orders of all hosts, and what their clients have seen."""

    def __init__(self):
        super().__init__()
        self._orders = defaultdict(queue.SimpleQueue)
        self._seen = defaultdict(list)
        self._numbers = itertools.count(1)
        #: Hosts that have asked for orders.
        self.present = set()

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

    def get(self, path):
        if not path.startswith("/orders/"):
            return PAGE
        host = path.removeprefix("/orders/")
        self.present.add(host)
        with contextlib.suppress(queue.Empty):
            return self._orders[host].get(timeout=1)
        return {}

    def post(self, path, body):
        for line in filter(None, body.decode().split("\n")):
            entry = json.loads(line)
            self._seen[entry.pop("run")].append(entry)
