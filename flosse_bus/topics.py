"""Topic names, subscription patterns, topic templates and who may read them.

A topic is 1 to 255 ASCII letters, digits and ``_ - : . @ /``; ``.`` separates segments. In a
subscription ``*`` stands for one segment and a trailing ``**`` for one or more. In a template
``{name}`` stands for the text of one segment or a part of it. Where a segment has two of
them, neither may hold what separates them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from .exceptions import InvalidTopic

_NAME = re.compile(r"[A-Za-z0-9_\-:.@/]{1,255}", re.ASCII)
_LITERAL = re.compile(r"[A-Za-z0-9_\-:.@/]*", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RULE = "A topic is 1-255 ASCII letters, digits and _ - : . @ / with '.' between segments"

AuthoriserT = TypeVar("AuthoriserT", bound=Callable[..., Any])


def check_topic(name: str) -> str:
    """Return a name that may be published to.

    Raises:
        InvalidTopic: anything else, patterns included.
    """
    if isinstance(name, str):
        if _NAME.fullmatch(name):
            return name
        if "*" in name:
            raise InvalidTopic(f"{name[:300]!r}: a pattern cannot be published to. {_RULE}.")
    raise InvalidTopic(f"{_shown(name)} is not a topic. {_RULE}.")


def check_subscription(name: str) -> str:
    """Return a topic or pattern that may be subscribed to.

    Raises:
        InvalidTopic: anything else.
    """
    if isinstance(name, str) and 0 < len(name) <= 255:
        segments = name.split(".")
        if segments[-1] == "**":
            segments.pop()
        if all(s == "*" or _LITERAL.fullmatch(s) for s in segments):
            return name
    raise InvalidTopic(
        f"{_shown(name)} is not a topic or pattern. {_RULE}; in a pattern '*' is one whole segment "
        "and '**' at the end one or more."
    )


def is_pattern(name: str) -> bool:
    return "*" in name


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a regular expression that fully matches each topic *and pattern* covered by this one.

    ``a.*`` covers ``a.b`` and ``a.*``, but not ``a.**``: permission to read a pattern is
    permission for every subscription that it contains.
    """
    return compile_template(check_subscription(pattern))


def meets(one: str, other: str) -> bool:
    """Tell whether two patterns have a topic in common. A topic is a pattern of itself."""
    these, those = one.split("."), other.split(".")
    for this, that in zip(these, those, strict=False):
        if "**" in (this, that):
            return True
        if this != that and "*" not in (this, that):
            return False
    return len(these) == len(those)


def compile_template(template: str) -> re.Pattern[str]:
    """Like :func:`compile_pattern`, with ``{name}`` placeholders as named groups.

    Raises:
        InvalidTopic: a bad name, placeholder, or two placeholders without a separator.
    """
    if not isinstance(template, str) or not template:
        raise InvalidTopic(f"{_shown(template)} is not a topic template. {_RULE}.")
    segments = template.split(".")
    last = len(segments) - 1
    parts = []
    for index, segment in enumerate(segments):
        if segment == "**" and index == last:
            # What is left of a subscription: one or more segments, wildcards included.
            parts.append(r"[^\s]*" if index else r"[^\s]+")
        elif segment == "*":
            parts.append(r"(?:\*|[^.*]*)")
        else:
            parts.append(_compile_segment(segment, template))
    try:
        return re.compile(r"\.".join(parts))
    except re.error as error:
        raise InvalidTopic(f"{template!r}: {error}. Name each placeholder once.") from None


def placeholders(template: str) -> tuple[str, ...]:
    """Return the names in a topic template, each once.

    Raises:
        InvalidTopic: it is no template of a topic. Wildcards cannot be published to.
    """
    compile_template(template)
    if is_pattern(template):
        raise InvalidTopic(f"{template!r}: a pattern cannot be published to. {_RULE}.")
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))


def separators(segment: str) -> frozenset[str]:
    """Return the characters that no value of a template's segment may hold: what separates two.

    Then a name is cut in one way only. Values with more of these, whoever has put them together,
    make a name that has too many, and belongs to no template.
    """
    return frozenset(literal[0] for literal in _PLACEHOLDER.split(segment)[2:-1:2] if literal)


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return the topic that a template and values make. An authoriser's template of the same shape
    reads the same values back.

    Raises:
        InvalidTopic: a value is empty, holds a ``.`` (it would make segments of its own, and so
            reach topics that others read), what separates it from another value in its segment, or
            what no topic can hold.
        KeyError: a value is missing.
    """
    filled = []
    for segment, forbidden in _segments(template):

        def value(match: re.Match[str], forbidden: frozenset[str] = forbidden) -> str:
            text = str(values[match[1]])
            if not text or "." in text or not _NAME.fullmatch(text):
                raise InvalidTopic(
                    f"{template!r}: the value of {{{match[1]}}} is not 1-255 ASCII letters, digits "
                    "and _ - : @ /. Use a field whose values are, such as the primary key."
                )
            if not forbidden.isdisjoint(text):
                raise InvalidTopic(
                    f"{template!r}: the value of {{{match[1]}}} holds "
                    f"{' or '.join(sorted(forbidden))}, which separates it from another one. Give "
                    "each a segment of its own."
                )
            return text

        filled.append(_PLACEHOLDER.sub(value, segment))
    return check_subscription(".".join(filled))


@lru_cache(maxsize=1000)
def _segments(template: str) -> tuple[tuple[str, frozenset[str]], ...]:
    compile_template(template)  # which refuses what cannot be told apart
    return tuple((segment, separators(segment)) for segment in template.split("."))


def _compile_segment(segment: str, template: str) -> str:
    literals = _PLACEHOLDER.split(segment)[::2]
    names = _PLACEHOLDER.findall(segment)
    for literal in literals[1:-1]:
        if not literal or literal[0].isalnum():
            raise InvalidTopic(
                f"{template!r}: two placeholders need text between them that begins with one of "
                "_ - : @ / . Whatever else it is, their values may hold it, and nobody could tell "
                "where one ends."
            )
    forbidden = re.escape("".join(sorted(separators(segment))))
    parts = [_escape(literals[0], template)]
    for name, literal in zip(names, literals[1:], strict=True):
        if not name.isidentifier():
            raise InvalidTopic(f"{template!r}: {{{name}}} is not a name. Write {{order_id}}.")
        # Never a wildcard: an authoriser must not be asked about order "*". Never a separator: one
        # way to match, and next to no backtracking.
        parts += [f"(?P<{name}>[^.*{forbidden}]+)", _escape(literal, template)]
    return "".join(parts)


def _escape(literal: str, template: str) -> str:
    if not _LITERAL.fullmatch(literal):
        raise InvalidTopic(f"{template!r}: {literal!r} cannot stand in a topic template. {_RULE}.")
    return re.escape(literal)


def _shown(name: object) -> str:
    return repr(name[:300]) if isinstance(name, str) else f"{type(name).__name__} {name!r:.100}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authoriser:
    """A function that says whether a request may read the topics of a template."""

    template: str
    regex: re.Pattern[str]
    function: Callable[..., Any]

    @property
    def label(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


@dataclass(slots=True)
class AuthoriserRegistry:
    """What ``@topic`` has registered, in the order of registration."""

    _authorisers: list[Authoriser] = field(default_factory=list)

    def register(self, template: str, function: Callable[..., Any]) -> None:
        regex = compile_template(template)
        if "request" in regex.groupindex:
            raise InvalidTopic(f"{template!r}: {{request}} is taken: it is the first argument.")
        self._authorisers.append(Authoriser(template=template, regex=regex, function=function))

    def unregister(self, function: Callable[..., Any]) -> None:
        self._authorisers = [a for a in self._authorisers if a.function is not function]

    def matching(self, name: str) -> Iterator[tuple[Authoriser, dict[str, str]]]:
        """Yield each authoriser that covers a topic or pattern, with its placeholders' values."""
        for authoriser in tuple(self._authorisers):
            match = authoriser.regex.fullmatch(name)
            if match is not None:
                yield authoriser, match.groupdict()

    def shadowed(self, public: Iterable[re.Pattern[str]]) -> dict[str, str]:
        """Return label by template of those whose topics are all covered by public patterns."""
        public = list(public)
        return {
            a.template: a.label
            for a in self._authorisers
            if covered(_PLACEHOLDER.sub("*", a.template), public)
        }


authorisers = AuthoriserRegistry()


def topic(template: str) -> Callable[[AuthoriserT], AuthoriserT]:
    """Register the decorated function as authoriser of the topics that a template covers.

    It is called with the request and the template's placeholders as keyword arguments; it may be
    a coroutine function; a true answer means "may read". Where several cover a topic, one true
    answer is enough and ``PermissionDenied`` ends the question, as with authentication backends.

    Raises:
        InvalidTopic: the template breaks the rules of this module.
    """

    def register(function: AuthoriserT) -> AuthoriserT:
        authorisers.register(template, function)
        return function

    return register


def covered(name: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    """Tell whether one of the compiled patterns covers a topic or pattern."""
    return any(pattern.fullmatch(name) for pattern in patterns)
