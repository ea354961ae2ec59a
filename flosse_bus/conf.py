"""``settings.FLOSSE_BUS``, checked and frozen. Every complaint names the setting at fault."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from .exceptions import InvalidBusBackend, InvalidTopic
from .topics import compile_pattern, meets

SETTING = "FLOSSE_BUS"
DEFAULT_ALIAS = "default"
#: Request headers that clients of streams send, and those that scripts add to all their requests.
DEFAULT_ALLOWED_HEADERS = (
    "authorization",
    "baggage",
    "content-type",
    "datastar-request",
    "pragma",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "x-csrftoken",
    "x-requested-with",
)
#: Seconds for which idempotency keys are kept where events are kept for ever.
KEY_TTL = 86_400.0
DEFAULT_BACKEND = "flosse_bus.backends.memory.MemoryBackend"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is kept of one topic: events, seconds and bytes of data. ``None``: no bound."""

    size: int
    ttl: float | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """One entry of ``TOPICS``. ``given`` has the fields of :class:`History` that it names."""

    pattern: str
    regex: re.Pattern[str]
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusConfig:
    """One entry of ``FLOSSE_BUS`` with its defaults filled in. Sizes in bytes, times in seconds."""

    alias: str
    backend: str
    location: str
    options: Mapping[str, Any]
    key_prefix: str
    history_size: int
    history_ttl: float | None
    history_bytes: int | None
    topics: tuple[TopicSettings, ...]
    max_event_size: int
    heartbeat: float
    #: Milliseconds, before jitter.
    retry: int
    send_timeout: float
    recheck_every: float
    max_pending: int
    public_topics: tuple[re.Pattern[str], ...]
    max_topics: int
    max_streams: int | None
    max_streams_per_client: int | None
    max_stream_threads: int
    max_stream_threads_per_client: int | None
    allowed_origins: frozenset[str]
    #: In lower case.
    allowed_headers: frozenset[str]

    @property
    def history(self) -> History:
        """What is kept of topics that no entry of ``TOPICS`` covers."""
        return History(size=self.history_size, ttl=self.history_ttl, max_bytes=self.history_bytes)

    @property
    def key_ttl(self) -> float:
        """Seconds for which idempotency keys are kept."""
        return KEY_TTL if self.history_ttl is None else self.history_ttl

    @property
    def signature(self) -> str:
        """Names the patterns of ``TOPICS`` and their order, on which alone depends what
        :meth:`class_of` says. Empty without any, when all topics are of one class.
        """
        if not self.topics:
            return ""
        patterns = "\n".join(entry.pattern for entry in self.topics)
        return hashlib.sha1(patterns.encode(), usedforsecurity=False).hexdigest()[:12]

    def class_of(self, topic: str) -> int:
        """Return which entry of ``TOPICS`` counts for a topic: the first that covers it.

        The number after the last is that of the rest, which none covers.
        """
        for number, entry in enumerate(self.topics):
            if entry.regex.fullmatch(topic):
                return number
        return len(self.topics)

    def classes_of(self, name: str) -> Iterator[int]:
        """Yield the class of a topic, or all that topics covered by a pattern may have."""
        for number, entry in enumerate(self.topics):
            if meets(name, entry.pattern):
                yield number
            if entry.regex.fullmatch(name):
                return  # it covers all that is left
        yield len(self.topics)

    def history_of(self, topic: str) -> History:
        """Return what is kept of a topic."""
        number = self.class_of(topic)
        if number == len(self.topics):
            return self.history
        return replace(self.history, **self.topics[number].given)


def configured_aliases() -> list[str]:
    """Return the aliases of ``FLOSSE_BUS``; ``["default"]`` when the setting is absent or empty."""
    return list(_setting())


def load(alias: str) -> BusConfig:
    """Read and check one entry of ``FLOSSE_BUS``.

    Raises:
        InvalidBusBackend: there is no such alias, or an entry that cannot work.
    """
    entries = _setting()
    if alias not in entries:
        known = ", ".join(map(repr, entries))
        raise InvalidBusBackend(f"{SETTING} has no bus {alias!r}. Configured: {known}.")
    entry = entries[alias]
    if not isinstance(entry, Mapping):
        raise InvalidBusBackend(f"{SETTING}[{alias!r}]: expected a dict, not {entry!r}.")
    for key in entry:
        if key not in _KEYS:
            raise InvalidBusBackend(
                f"{SETTING}[{alias!r}][{key!r}]: no such setting. Known: {', '.join(_KEYS)}."
            )
    values = {}
    for key, (default, check) in _KEYS.items():
        value = entry.get(key, default)
        try:
            values[key.lower()] = check(value)
        except _Inside as error:
            raise InvalidBusBackend(f"{SETTING}[{alias!r}][{key!r}]{error}.") from error
        except ValueError as error:
            raise InvalidBusBackend(
                f"{SETTING}[{alias!r}][{key!r}]: {error}, not {value!r}."
            ) from error
    return BusConfig(alias=alias, **values)


def _setting() -> Mapping[str, Any]:
    entries = getattr(settings, SETTING, None) or {DEFAULT_ALIAS: {}}
    if not isinstance(entries, Mapping):
        raise InvalidBusBackend(
            f'{SETTING}: expected a dict like {{"default": {{...}}}}, not {entries!r}.'
        )
    if DEFAULT_ALIAS not in entries:
        raise InvalidBusBackend(f"{SETTING}: there must be a bus {DEFAULT_ALIAS!r}.")
    return entries


class _Inside(ValueError):
    """Something within a setting is wrong: the rest of its place, and what."""


def _integer(*, least: int, optional: bool = False) -> Callable[[Any], int | None]:
    def check(value: Any) -> int | None:
        if optional and value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise ValueError(f"expected an integer of at least {least}{' or None' * optional}")

    return check


def _seconds(*, optional: bool = False) -> Callable[[Any], float | None]:
    def check(value: Any) -> float | None:
        if optional and value is None:
            return None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and 0 < value < float("inf"):
            return float(value)
        raise ValueError(f"expected a number of seconds above 0{' or None' * optional}")

    return check


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected a str")


def _options(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return MappingProxyType(dict(value))
    raise ValueError("expected a dict of the backend's keyword arguments")


def _prefix(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_\-:.]{1,64}", value):
        return value
    raise ValueError("expected 1 to 64 characters of letters, digits and _ - : .")


def _patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError("expected a list of topics and patterns")
    try:
        return tuple(compile_pattern(pattern) for pattern in value)
    except InvalidTopic as error:
        raise ValueError(f"{error} Expected topics and patterns") from error


def _topics(value: Any) -> tuple[TopicSettings, ...]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a dict of patterns, each with a dict of settings")
    found = []
    for pattern, entry in value.items():
        where = f"[{pattern!r}]"
        try:
            regex = compile_pattern(pattern)
        except InvalidTopic as error:
            raise _Inside(f"{where}: {str(error).removesuffix('.')}") from error
        if not isinstance(entry, Mapping):
            raise _Inside(f"{where}: expected a dict of settings, not {entry!r}")
        given = {}
        for key, one in entry.items():
            if key not in _OF_TOPICS:
                raise _Inside(f"{where}[{key!r}]: no such setting. Known: {', '.join(_OF_TOPICS)}")
            try:
                given[_OF_TOPICS[key]] = _KEYS[key][1](one)
            except ValueError as error:
                raise _Inside(f"{where}[{key!r}]: {error}, not {one!r}") from error
        found.append(TopicSettings(pattern=pattern, regex=regex, given=MappingProxyType(given)))
    return tuple(found)


def _origins(value: Any) -> frozenset[str]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError("expected a list of origins")
    for origin in value:
        if not isinstance(origin, str) or not _is_origin(origin):
            raise ValueError(
                f"{origin!r} is no origin: expected scheme and host as browsers send them, like "
                "'https://app.example.com' or 'http://localhost:3000', without path or wildcard"
            )
    return frozenset(value)


def _header_names(value: Any) -> frozenset[str]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError("expected a list of header names")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"{name!r} is not the name of a header. Expected ones like 'X-Token'")
        if name == "*":
            raise ValueError("'*' stands for no header where cookies travel. Expected names")
    return frozenset(name.lower() for name in value)


def _is_origin(text: str) -> bool:
    try:
        url = urlsplit(text)
        default_port = url.port == {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return False
    if default_port:  # browsers leave it out
        return False
    plain = f"{url.scheme}://{url.netloc}" == text and "*" not in text and "@" not in text
    return plain and url.scheme in ("http", "https") and bool(url.hostname) and text == text.lower()


_KEYS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "BACKEND": (DEFAULT_BACKEND, _string),
    "LOCATION": ("", _string),
    "OPTIONS": ({}, _options),
    "KEY_PREFIX": ("flosse", _prefix),
    "HISTORY_SIZE": (1000, _integer(least=1)),
    "HISTORY_TTL": (3600, _seconds(optional=True)),
    "HISTORY_BYTES": (None, _integer(least=1, optional=True)),
    "TOPICS": ({}, _topics),
    "MAX_EVENT_SIZE": (1_048_576, _integer(least=1)),
    "HEARTBEAT": (15, _seconds()),
    "RETRY": (3000, _integer(least=1)),
    "SEND_TIMEOUT": (30, _seconds()),
    "RECHECK_EVERY": (60, _seconds()),
    "MAX_PENDING": (1000, _integer(least=1)),
    "PUBLIC_TOPICS": ((), _patterns),
    "MAX_TOPICS": (50, _integer(least=1)),
    "MAX_STREAMS": (None, _integer(least=1, optional=True)),
    "MAX_STREAMS_PER_CLIENT": (None, _integer(least=1, optional=True)),
    "MAX_STREAM_THREADS": (100, _integer(least=1)),
    "MAX_STREAM_THREADS_PER_CLIENT": (None, _integer(least=1, optional=True)),
    "ALLOWED_ORIGINS": ((), _origins),
    "ALLOWED_HEADERS": (DEFAULT_ALLOWED_HEADERS, _header_names),
}

#: What an entry of ``TOPICS`` may say, and the field of :class:`History` that it sets.
_OF_TOPICS = {"HISTORY_SIZE": "size", "HISTORY_TTL": "ttl", "HISTORY_BYTES": "max_bytes"}
