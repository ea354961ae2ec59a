"""One stream under ASGI without a task of its own: from its subscription to the server's ``send``.

A ``send`` that can complete at once is driven to its end right here, like a function call. One
that waits for its client goes on in a task, which drives the stream until it has caught up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from asyncio import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ..access import Refusal
from ..hub import Hub
from ..message import Message
from ..subscription import Item, Subscription
from .fanout import fanouts
from .line import Line
from .peer import FAREWELL, PIECE
from .servers import Connection, Send
from .shortcut import find_transport
from .stepping import DONE, rest
from .stream import WITHDRAWN, Stream, logger

#: Bytes that may wait in the server's transport, which then refers to what all streams share.
SHARED = 4 * PIECE


class Outlet:
    """Made by the request's own task, which then waits for :attr:`ended`.

    It is its subscription's signal. ``_queued`` holds from being woken until there is nothing
    left to send: in the fan-out's queue, and while a task drives it.
    """

    __slots__ = (
        "__weakref__",
        "_asking",
        "_context",
        "_done",
        "_drop",
        "_envelope",
        "_fanout",
        "_guarded",
        "_hub",
        "_line",
        "_loop",
        "_opened",
        "_owner",
        "_queued",
        "_refusal",
        "_send",
        "_stream",
        "_task",
        "_transport",
        "ended",
        "subscription",
    )

    def __init__(
        self,
        stream: Stream,
        hub: Hub,
        send: Send,
        context: contextvars.Context,
        connection: Connection | None,
    ) -> None:
        self._stream = stream
        self._hub = hub
        self._send = send
        self._drop = None if connection is None else connection.drop
        self._line = Line(self, connection, stream.bus.config.send_timeout)
        self._fanout = fanouts.here()
        self._loop = asyncio.get_running_loop()
        # Whatever is wrapped around the server's send sees the context and task of the request.
        self._context = context
        self._owner = asyncio.current_task()
        self._guarded = not stream.access.always
        self._asking = False
        self._refusal: Refusal | None = None
        self._envelope = stream.envelope
        self._transport: asyncio.Transport | None = None
        self._done = False
        self._queued = True  # until it begins
        self._opened = False
        self._task: asyncio.Task[None] | None = None
        self.subscription: Subscription
        #: Done when there will be nothing more to send.
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def open(self) -> None:
        """Subscribe.

        Raises:
            BackendUnavailable: the log cannot be read now.
        """
        stream = self._stream
        self.subscription = await self._hub.open(
            stream.names, after=stream.after, signal=self, heartbeat=stream.heartbeat
        )

    def begin(self) -> None:
        """Send what comes first, and from now on whatever comes."""
        if self._guarded:
            self._fanout.guarded.add(self)
            self._fanout.watch()
        self._queued = False
        self.set()

    # As a reader

    def end(self, reason: str) -> None:
        """End the stream. Any thread."""
        self._hub.end(self.subscription, reason)

    def leave(self, reason: str) -> None:
        """Take the subscription out of the hub. Any thread."""
        self._hub.close(self.subscription, reason)

    # As a signal, and when it is its turn

    def set(self) -> None:
        """There is something to send."""
        if not self._queued:
            self._queued = True
            self._fanout.queue(self)

    def pump(self, *, asked: bool = False) -> None:
        """Send what is pending, as far as that goes without waiting.

        ``asked``: the answer has come just now, which counts for once however long it took.
        """
        if self._done:
            return
        subscription = self.subscription
        if subscription.closed is not None:
            self._go_on(self._finish)
            return
        if self._refusal is not None:
            self._go_on(partial(self._refuse, self._refusal))
            return
        if self._guarded and not asked and self._stream.access.overdue:
            self._queued = False
            self._ask_again()
            return
        items = subscription.take()
        try:
            sent = not items or self._write_chunk(items)
            left = None if sent else self._start(self._encode(items))
        except Exception:  # noqa: BLE001  # because others wait for their turn
            logger.exception("stream ended, as it could not be written")
            self.leave("error")
            self._over()
            return
        if left is not None:
            self._go_on(left)
            return
        self._queued = False
        if subscription.more:
            self.set()

    def offer(self, messages: tuple[Message, ...]) -> bool:
        """Write these at once, if nothing stands before them or in their way.

        Called under the switchboard's lock, so nothing but the server's transport is called.
        """
        return (
            not self._queued
            and self._fanout.has_time()
            and not (self._guarded and self._stream.access.overdue)
            and self._write_chunk(messages)
        )

    def _write_chunk(self, items: Sequence[Item]) -> bool:
        """Write what ``send`` would, if it would not wait. False: nothing has been written."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return False
        data = self._fanout.chunk(items, envelope=self._envelope)
        if len(data) > SHARED or transport.is_closing():
            return False
        try:
            transport.write(data)
        except Exception as error:  # noqa: BLE001  # because it must not come between other streams
            logger.debug("stream could not be written to at once: %r", error)
            self._transport = None
            return False
        return True

    def _encode(self, items: Sequence[Item]) -> bytes:
        data = self._fanout.encode(items, envelope=self._envelope)
        if not self._opened:  # the opening goes through the server, as it knows where its head is
            self._opened = True
            self._transport = find_transport(self._send)
        return data

    def _next(self) -> bytes:
        """Return the next piece, empty if there is none now."""
        items = self.subscription.take()
        return self._encode(items) if items else b""

    def _start(self, data: bytes) -> Callable[[], Awaitable[None]] | None:
        """Begin to send; return what is left to be waited for, if anything is."""
        if len(data) > PIECE:
            return partial(self._write, data)
        if self._owner is not None:
            _enter_task(self._loop, self._owner)
        try:
            message = {"type": "http.response.body", "body": data, "more_body": True}
            step = iter(self._send(message).__await__())
            waits_for = self._context.run(next, step, DONE)
        except asyncio.CancelledError as error:  # of a future that it has waited for before
            self._fail(error)
            return None
        except Exception as error:  # noqa: BLE001  # because servers have errors of their own
            self._fail(error)
            return None
        finally:
            if self._owner is not None:
                _leave_task(self._loop, self._owner)
        return None if waits_for is DONE else partial(rest, step, waits_for)

    # Where it must wait

    def _go_on(self, first: Callable[[], Awaitable[None]]) -> None:
        self._task = self._context.run(self._loop.create_task, self._drive(first))

    async def _drive(self, first: Callable[[], Awaitable[None]]) -> None:
        """Finish what has begun, and then whatever is pending, at the client's pace."""
        try:
            self._line.wait()
            await first()
            while not self._done:
                if self.subscription.closed is not None:
                    await self._finish()
                elif self._refusal is not None:
                    await self._refuse(self._refusal)
                elif self._guarded and self._stream.access.overdue:
                    break
                elif data := self._next():
                    await self._write(data)
                else:
                    break
        except Exception as error:  # noqa: BLE001  # because servers have errors of their own
            self._fail(error)
        finally:
            self._line.done()
            self._task = None
            self._queued = False
        if not self._done and self.subscription.more:
            self.set()

    async def _write(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if start:
                await asyncio.sleep(0)  # others have small events to send
                if self.subscription.closed is not None:
                    return
            piece = data if len(data) <= PIECE else data[start : start + PIECE]
            self._line.wait()
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _finish(self, data: bytes = b"") -> None:
        """End the response as a client expects it to end."""
        self._line.wait()
        data = self._stream.farewell(self.subscription) + data
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self._over()

    async def _refuse(self, refusal: Refusal) -> None:
        self.leave(WITHDRAWN)
        await self._finish(self._stream.error(refusal))

    # Asking again

    @property
    def finished(self) -> bool:
        """Is there nothing to ask any more? Any thread."""
        return self._done

    def check_access(self) -> None:
        """Ask again before it is overdue, so that no event has to wait for the answer."""
        if self._stream.access.due:
            self._ask_again()

    def _ask_again(self) -> None:
        if not self._asking:
            self._asking = True
            self._fanout.rechecks.add(self)

    def ask(self) -> Refusal | None:
        """Ask again. Sync code, in a thread: it may use the ORM."""
        return self._context.copy().run(self._stream.access.recheck)

    def answered(self, answer: Refusal | BaseException | None) -> None:
        """It has been asked."""
        if self._done:
            return
        if isinstance(answer, BaseException):
            logger.error("stream ended, as its permission could not be checked", exc_info=answer)
            self.leave("error")
            self._over()
            return
        self._refusal = answer
        self._asking = False
        if not self._queued and (answer is not None or self.subscription.more):
            self._queued = True
            self.pump(asked=True)

    # The end

    @property
    def stopping(self) -> bool:
        return self.subscription.closed == "shutdown"

    def lose(self) -> None:
        """The client takes nothing any more: after SEND_TIMEOUT, or while the server stops."""
        self._hub.give_up(self.subscription, "send timeout")
        if self._drop is None:
            self._over()
            return
        self._drop()
        # The server says that the client has gone, which it would not if we had gone before.
        self._loop.call_later(FAREWELL, self._over)

    def _fail(self, error: BaseException) -> None:
        # The client has gone, which servers tell in ways of their own.
        logger.debug("stream could not be written: %r", error)
        self._over()

    def client_gone(self, _: object) -> None:
        """The server says so."""
        self._over()

    def _over(self) -> None:
        self._done = True
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def part(self) -> None:
        """End the response if that goes without waiting: the request's task has been cancelled, as
        servers do with those that are left when they stop."""
        if self._done:
            return
        self.leave("cancelled")
        if self._task is not None:
            return
        body = self._stream.farewell(self.subscription)
        message = {"type": "http.response.body", "body": body, "more_body": False}
        with contextlib.suppress(Exception):
            next(iter(self._send(message).__await__()), None)

    def close(self) -> None:
        """Give everything back. The request's own task calls it, however it ends."""
        self._over()
        if self._task is not None:
            self._task.cancel()
        self._fanout.guarded.discard(self)
        self._line.close()
        self._stream.close()
