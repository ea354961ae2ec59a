"""Take compression back off a stream that some middleware has compressed already.

A compressor holds events back until it has enough of them. ``Content-Encoding: identity`` and a
request that accepts nothing else keep it away; this is for streams that had neither.
"""

from __future__ import annotations

import gzip
import inspect
import logging
import zlib
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

logger = logging.getLogger("flosse_bus")

#: Where the generators are that GZipMiddleware puts around content, in one version or another.
_DJANGOS = {"django.utils.text", "django.middleware.gzip"}

_warned: set[tuple[str, str]] = set()


def undo(response: HttpResponseBase) -> None:
    """Restore what was compressed; where that cannot be found, warn once and leave it alone."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return
    if isinstance(response, StreamingHttpResponse):
        iterator = response._iterator  # type: ignore[attr-defined]  # because streaming_content wraps it
        original = _original(iterator) if encoding == "gzip" else None
        if original is None:
            _warn(encoding, iterator)
            return
        response.streaming_content = original
    elif isinstance(response, HttpResponse):
        try:
            if encoding != "gzip":
                raise gzip.BadGzipFile
            response.content = gzip.decompress(response.content)
        except (OSError, EOFError, zlib.error):
            _warn(encoding, response)
            return
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(len(response.content))
    del response.headers["Content-Encoding"]


def _original(wrapper: object) -> Iterator[Any] | AsyncIterator[Any] | None:
    """Return the iterator that a generator of Django's, not yet begun, will compress."""
    frame, method = _frame(wrapper), "__anext__" if inspect.isasyncgen(wrapper) else "__next__"
    if frame is None or frame.f_globals.get("__name__") not in _DJANGOS:
        return None
    code = frame.f_code
    given = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_freevars}
    if not given >= set(frame.f_locals):  # a variable of its own: it has begun
        return None
    # Versions and kinds call it differently. Nothing else that they are given can be iterated.
    found = [value for value in frame.f_locals.values() if hasattr(value, method)]
    return found[0] if len(found) == 1 else None


def _frame(iterator: object) -> FrameType | None:
    if inspect.isgenerator(iterator):
        return iterator.gi_frame
    return iterator.ag_frame if inspect.isasyncgen(iterator) else None


def _warn(encoding: str, culprit: object) -> None:
    frame = _frame(culprit)
    module = type(culprit).__module__ if frame is None else frame.f_globals.get("__name__")
    name = f"{module}.{getattr(culprit, '__qualname__', type(culprit).__qualname__)}"
    if (encoding, name) in _warned:
        return
    _warned.add((encoding, name))
    logger.warning(
        "An event stream came out compressed (Content-Encoding: %s, content: %s), so its events "
        "may be held back. Put the middleware that compresses it before BusMiddleware in "
        "MIDDLEWARE, or have it leave text/event-stream alone.",
        encoding,
        name,
    )
