"""A generator's stream, sent by our ASGI application itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, MutableMapping
from contextlib import aclosing, closing
from functools import partial
from typing import Any

from ..wire import COMMENT
from .generated import FAREWELL, PIECE, GeneratorStream, aframes, logger
from .line import Line
from .peer import FAREWELL as SOON
from .peer import pieces
from .producers import TaskRunner
from .servers import Connection, Send
from .stepping import DONE, rest

Message = MutableMapping[str, Any]

_GONE = ("client gone", "send timeout")


async def send_generated(
    stream: GeneratorStream,
    head: Message,
    send: Send,
    gone: asyncio.Future[None],
    connection: Connection | None,
) -> None:
    """Send the head and whatever the generator yields, until it, its client or the server ends."""
    gone.add_done_callback(lambda _: stream.end("client gone"))
    sender = Sender(stream, send, connection)
    with closing(sender.line):
        await sender.send(head)
        # Some servers keep the head back until there is a body.
        await sender.send(_body(b""))
        if stream.steps.is_async:
            await sender.run()
            if stream.farewell and not sender.within:
                await sender.send(_body(stream.farewell))
        else:
            await sender.relay()
        await sender.send(_body(b"", more=False))


class Sender:
    """Sends one stream, and gives its client up where it has to."""

    def __init__(self, stream: GeneratorStream, send: Send, connection: Connection | None) -> None:
        self._stream = stream
        self._send = send
        self._drop = None if connection is None else connection.drop
        self.line = Line(self, connection, stream.send_timeout)
        self._loop = asyncio.get_running_loop()
        # A heartbeat must not come between the pieces of a frame.
        self._sending = asyncio.Lock()
        self._sent = self._loop.time()
        self._beat: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._lost = False
        #: Has it ended in the midst of a frame, so that nothing can be said any more?
        self.within = False

    async def relay(self) -> None:
        """Send what a sync generator yields in its thread."""
        async with aclosing(aframes(self._stream)) as pieces_of_frames:
            async for piece in pieces_of_frames:
                await self.send(_body(piece))
                if self._gone:
                    return

    async def run(self) -> None:
        """Run an async generator in a task that sends each frame itself."""
        stream = self._stream
        runner = TaskRunner(stream.steps, stream.surroundings, self._take, self._done)
        stream.begin(self._loop, runner, partial(self._end, runner))
        if stream.heartbeat is not None:
            self._watch(stream.heartbeat)
        try:
            await asyncio.shield(self._over)
        finally:
            if self._over.done():
                stream.finish()
            else:
                stream.end("cancelled")
            stream.close()
            if self._beat is not None:
                self._beat.cancel()
            if not self._over.done():
                await asyncio.wait((self._over,), timeout=FAREWELL)

    async def _take(self, frame: bytes) -> None:
        if self._over.done():  # it was given up, and does not know
            return
        if not await self._stream.may_go_on():
            return
        self._stream.events += 1
        async with self._sending:
            self.within = len(frame) > PIECE
            for number, piece in enumerate(pieces(frame, PIECE)):
                if number:
                    # Others have small events to send, and who goes meanwhile shall be noticed.
                    await asyncio.sleep(0)
                await self.send(_body(piece))
            self._sent = self._loop.time()
            self.within = False

    def _end(self, runner: TaskRunner) -> None:
        runner.close()
        self._loop.call_later(FAREWELL, self._done)  # whatever the generator makes of it

    def _done(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _watch(self, heartbeat: float) -> None:
        if self._over.done():
            return
        silent = self._loop.time() - self._sent
        if silent >= heartbeat and not self._sending.locked():
            self._sent = self._loop.time()
            self._beat = self._loop.create_task(self._comment())
            silent = 0.0
        self._loop.call_later(max(heartbeat - silent, heartbeat / 10), self._watch, heartbeat)

    async def _comment(self) -> None:
        async with self._sending:
            await self.send(_body(COMMENT))

    async def send(self, message: Message) -> None:
        """Send one message, if there still is somebody to send it to."""
        stream = self._stream
        if self._gone:
            return
        try:
            step = iter(self._send(message).__await__())
            waits_for = next(step, DONE)
            if waits_for is not DONE:
                await self._in_time(rest(step, waits_for))
        except Exception as error:  # noqa: BLE001  # because servers have errors of their own
            logger.debug("stream could not be sent: %r", error)
            stream.end("client gone")

    async def _in_time(self, left: Coroutine[Any, Any, None]) -> None:
        """Finish to send, as long as there is somebody to send it to."""
        sending = asyncio.ensure_future(left)
        self.line.wait()
        try:
            while not sending.done():
                await asyncio.wait((sending,), timeout=SOON)
                if self._gone:
                    break
            if sending.done():
                sending.result()
        finally:
            self.line.done()
            sending.cancel()

    @property
    def _gone(self) -> bool:
        return self._lost or self._stream.reason in _GONE

    @property
    def stopping(self) -> bool:
        return self._stream.stopping

    def lose(self) -> None:
        """The client takes nothing any more: after SEND_TIMEOUT, or while the server stops."""
        self._lost = True
        self._stream.give_up("send timeout")
        if self._drop is not None:
            self._drop()


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
