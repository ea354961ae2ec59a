"""The recipe for Channels: a consumer per stream in a group, with channels_redis in between."""

import django

django.setup()

from channels.generic.http import AsyncHttpConsumer
from channels.layers import get_channel_layer

from benchmarks.peers.load import controlled_asgi


class Events(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        self.group = f"load.{self.scope['path'].split('/')[2]}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        await self.send_body(b": ok\n\n", more_body=True)

    async def http_request(self, message) -> None:
        # As the base class, which however ends the consumer when handle() returns.
        if not message.get("more_body"):
            await self.handle(b"")

    async def load_event(self, message) -> None:
        await self.send_body(f"data: {message['text']}\n\n".encode(), more_body=True)

    async def disconnect(self) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)


async def apublish(topic: int, text: str) -> None:
    layer = get_channel_layer()
    await layer.group_send(f"load.{topic}", {"type": "load.event", "text": text})


application = controlled_asgi(Events.as_asgi(), apublish)
