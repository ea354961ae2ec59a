"""This project. ``BENCH_ENTRY`` says how: takeover, stock (ASGI) or wsgi. Memory backend.

``BENCH_USING`` is the database whose transactions ``apublish`` asks about: none by default.
"""

import os

import django

django.setup()

from benchmarks.peers.load import controlled_asgi, controlled_wsgi, extra
from flosse_bus import bus

calls = 0


def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        return function(*args, **kwargs)

    return call


# Reading the log, as opposed to publishing or listening: what a storm of reconnects could repeat.
for _name in ("read", "aread"):
    setattr(bus.backend, _name, counted(getattr(bus.backend, _name)))
extra["reads"] = lambda: calls
USING = os.environ.get("BENCH_USING")


async def apublish(topic: int, text: str) -> None:
    await bus.apublish(f"load.{topic}", text, using=USING)


def publish(topic: int, text: str) -> None:
    bus.publish(f"load.{topic}", text, using=None)


entry = os.environ.get("BENCH_ENTRY", "takeover")
if entry == "takeover":
    from flosse_bus.asgi import get_asgi_application

    application = controlled_asgi(get_asgi_application(), apublish)
elif entry == "stock":
    from django.core.asgi import get_asgi_application

    application = controlled_asgi(get_asgi_application(), apublish)
else:
    from django.core.wsgi import get_wsgi_application

    application = controlled_wsgi(get_wsgi_application(), publish)
