"""``Topics``: what a view returns to stream topics of the bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from ...access import check_recheck
from ...conf import DEFAULT_ALIAS
from ...exceptions import InvalidTopic
from ...topics import fill, is_pattern


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics of the bus to stream; ``{name}`` in them is filled from the URL.

    ``None``: the client names them, as for ``SubscribeView``; each must then be public or
    authorised too. ``patterns``: may the names hold wildcards? If not, nothing that a client has
    put into a name can widen it. ``recheck_every``: seconds after which the view is asked again
    whether the stream may go on; ``None`` is the RECHECK_EVERY of the bus.
    """

    names: Sequence[str] | None
    _: KW_ONLY
    bus: str = DEFAULT_ALIAS
    patterns: bool = False
    recheck_every: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise TypeError(f"Topics: expected a list of names, not {self.names!r}.")
        check_recheck("Topics", self.recheck_every)

    def filled(self, values: Mapping[str, object]) -> tuple[str, ...] | None:
        """Return the names with these values in them.

        Raises:
            InvalidTopic: a name or value breaks the rules, there is none, or one is a pattern.
        """
        if self.names is None:
            return None
        try:
            names = tuple(fill(name, values) for name in self.names)
        except KeyError as error:
            raise InvalidTopic(f"The URL has no {error} to fill a topic's name with.") from error
        if not names:
            raise InvalidTopic("There is no topic to stream.")
        for name in names:
            if is_pattern(name) and not self.patterns:
                raise InvalidTopic(f"{name!r} is a pattern: only Topics(patterns=True) takes one.")
        return names
