"""Call a server's ``send`` by hand: where it need not wait, that costs no turn of the loop."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

#: What ``next(step, DONE)`` gives when it need not wait.
DONE = object()


@types.coroutine
def rest(step: Iterator[Any], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with an awaitable that has run up to where it waits (PEP 380, without its values)."""
    while True:
        resume: Callable[[], Any] = partial(next, step)
        try:
            yield waits_for
        except GeneratorExit:
            raise
        except BaseException as error:  # because it is passed on, to where it waits
            if not hasattr(step, "throw"):
                raise
            resume = partial(step.throw, error)
        try:
            waits_for = resume()
        except StopIteration:
            return
