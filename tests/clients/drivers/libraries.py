"""Runs the Python libraries. Usage: python libraries.py DESK

Those that only parse get the loop that their documentation leaves to their users: come back after
`retry` with the id of the last message, and after an error of the network too.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading

import httpx
import httpx_sse
import requests
import requests_sse
import sseclient
from aiohttp import ClientError, ClientSession, ClientTimeout
from aiohttp_sse_client import client as aiohttp_sse

ACCEPT = {"Accept": "text/event-stream"}


class Run:
    """One client that runs, in a thread of its own."""

    def __init__(self, order, say):
        self.url = order["url"]
        self.verify = order.get("trust") or True
        self.patience = order["patience"] / 1000 if order.get("patience") else None
        self.stopped = threading.Event()
        self._number, self._say = order["run"], say

    def note(self, kind, **entry):
        if not self.stopped.is_set():
            self._say({"run": self._number, "kind": kind, **entry})

    def message(self, id, event, data):
        kind = "event" if data else "empty"
        self.note(kind, id=id, event=event or "message", data=data)


def with_httpx_sse(run):
    last_id, retry = "", 1.0
    timeout = httpx.Timeout(5, read=run.patience)
    with httpx.Client(timeout=timeout, verify=run.verify, trust_env=False) as client:
        while not run.stopped.is_set():
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with httpx_sse.connect_sse(client, "GET", run.url, headers=headers) as source:
                    source.response.raise_for_status()
                    run.note("open")
                    for sse in source.iter_sse():
                        last_id = sse.id or last_id
                        if sse.retry is not None:
                            retry = sse.retry / 1000
                        run.message(sse.id, sse.event, sse.data)
                        if run.stopped.is_set():
                            return
                run.note("error", detail="end")
            except httpx.HTTPError as error:
                run.note("error", detail=repr(error))
            run.stopped.wait(retry)


def with_sseclient_py(run):
    last_id, retry = "", 1.0
    with requests.Session() as session:
        session.trust_env = False
        while not run.stopped.is_set():
            headers = {**ACCEPT, **({"Last-Event-ID": last_id} if last_id else {})}
            try:
                with session.get(
                    run.url, headers=headers, stream=True, timeout=(5, run.patience),
                    verify=run.verify,
                ) as response:  # fmt: skip
                    response.raise_for_status()
                    run.note("open")
                    for event in sseclient.SSEClient(response).events():
                        last_id = event.id or last_id
                        if event.retry:
                            retry = int(event.retry) / 1000
                        run.message(event.id, event.event, event.data)
                        if run.stopped.is_set():
                            return
                run.note("error", detail="end")
            except requests.RequestException as error:
                run.note("error", detail=repr(error))
            run.stopped.wait(retry)


def with_requests_sse(run):
    last_id = ""
    session = requests.Session()
    session.trust_env = False
    while not run.stopped.is_set():
        try:
            with requests_sse.EventSource(
                run.url, session=session, timeout=(5, run.patience), verify=run.verify,
                latest_event_id=last_id, on_open=lambda: run.note("open"),
                on_error=lambda: run.note("error"),
            ) as source:  # fmt: skip
                for event in source:
                    last_id = event.last_event_id
                    run.message(event.last_event_id, event.type, event.data)
                    if run.stopped.is_set():
                        return
        except requests.RequestException as error:  # it has tried five times, or an answer was no
            run.note("error", detail=repr(error), closed=True)
        run.stopped.wait(1)


def with_aiohttp_sse_client(run):
    async def main():
        last_id = ""
        timeout = ClientTimeout(total=None, sock_connect=5, sock_read=run.patience)
        async with ClientSession(timeout=timeout) as session:
            while not run.stopped.is_set():
                headers = {"Last-Event-ID": last_id} if last_id else {}
                options = {"ssl": trusting(run.verify)} if run.verify is not True else {}
                try:
                    async with aiohttp_sse.EventSource(
                        run.url, session=session, headers=headers,
                        on_open=lambda: run.note("open"), on_error=lambda: run.note("error"),
                        **options,
                    ) as source:  # fmt: skip
                        async for event in source:
                            last_id = event.last_event_id
                            run.message(event.last_event_id, event.type, event.data)
                            if run.stopped.is_set():
                                return
                except (OSError, ClientError, asyncio.TimeoutError) as error:
                    run.note("error", detail=repr(error), closed=True)
                await asyncio.sleep(1)  # what a client of this library waits before it comes back

    asyncio.run(main())


def trusting(path):
    import ssl

    return ssl.create_default_context(cafile=path)


CLIENTS = {
    "httpx-sse": with_httpx_sse,
    "sseclient-py": with_sseclient_py,
    "requests-sse": with_requests_sse,
    "aiohttp-sse-client": with_aiohttp_sse_client,
}


def main(desk):
    said = queue.SimpleQueue()

    def post():
        with httpx.Client(trust_env=False) as client:
            while True:
                lines = [said.get()]
                while not said.empty():
                    lines.append(said.get())
                client.post(f"{desk}/seen/", content="\n".join(map(json.dumps, lines)))

    threading.Thread(target=post, daemon=True).start()
    runs = {}
    with httpx.Client(trust_env=False, timeout=20) as client:
        while True:
            order = client.get(f"{desk}/orders/python").json()
            if order.get("stop"):
                runs.pop(order["run"]).stopped.set()
            elif order:
                run = runs[order["run"]] = Run(order, said.put)
                threading.Thread(target=obey, args=(order["client"], run), daemon=True).start()


def obey(client, run):
    try:
        CLIENTS[client](run)
    except Exception as error:
        run.note("broken", detail=repr(error))
        raise


if __name__ == "__main__":
    main(sys.argv[1])
