"""django-eventstream as its README has it for one process: no storage, no Redis, no proxy."""

import django
from django.core.asgi import get_asgi_application

from benchmarks.peers.load import controlled_asgi

django.setup()

from django_eventstream import send_event


async def apublish(topic: int, text: str) -> None:
    # It has no async call. This one only appends to lists in memory: no thread is needed.
    send_event(f"load.{topic}", "message", text, json_encode=False)


application = controlled_asgi(get_asgi_application(), apublish)
