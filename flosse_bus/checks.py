"""System checks: everything wrong that can be known before the first event."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from .bus import buses, import_backend
from .changes import publications
from .conf import configured_aliases, load
from .exceptions import InvalidBusBackend
from .topics import authorisers

MIDDLEWARE = "flosse_bus.middleware.BusMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
CORS_HEADERS = "corsheaders.middleware.CorsMiddleware"


def check_buses(**kwargs: Any) -> list[CheckMessage]:
    """E001: an entry of FLOSSE_BUS that cannot work. Then what each backend says of itself."""
    messages: list[CheckMessage] = []
    try:
        aliases = configured_aliases()
    except InvalidBusBackend as error:
        return [Error(str(error), id="flosse_bus.E001")]
    for alias in aliases:
        try:
            config = load(alias)
            import_backend(config)
            messages += buses[alias].backend.check()
        except InvalidBusBackend as error:
            messages.append(Error(str(error), id="flosse_bus.E001"))
    return messages


def check_shared_logs(**kwargs: Any) -> list[CheckMessage]:
    """W005: two buses are one, so that whoever may read either may read both."""
    places: dict[Any, str] = {}
    shared: dict[tuple[str, str], None] = {}
    try:
        for alias in configured_aliases():
            for place in buses[alias].backend.places():
                other = places.setdefault(place, alias)
                if other != alias:
                    shared[other, alias] = None
    except InvalidBusBackend:
        return []  # E001 has said so
    return [
        Warning(
            f"FLOSSE_BUS[{one!r}] and FLOSSE_BUS[{other!r}] share one log: they have the same "
            "server and the same KEY_PREFIX.",
            hint=(
                "Give each a KEY_PREFIX of its own. Events of either reach the streams of both, so "
                "that the laxer PUBLIC_TOPICS count for all, and either drops history that the "
                "other would keep."
            ),
            id="flosse_bus.W005",
        )
        for one, other in shared
    ]


def check_middleware(**kwargs: Any) -> list[CheckMessage]:
    """W002: without the middleware, or with it in a place that defeats it, streams are spoilt."""
    middleware = list(settings.MIDDLEWARE)
    if MIDDLEWARE not in middleware:
        return [
            Warning(
                f"MIDDLEWARE does not hold {MIDDLEWARE!r}.",
                hint=(
                    "Put it first. Without it streams keep a server from stopping, pages of other "
                    "origins cannot read them, and GZipMiddleware holds back those of other views."
                ),
                id="flosse_bus.W002",
            )
        ]
    messages: list[CheckMessage] = []
    if middleware.count(MIDDLEWARE) > 1:
        messages.append(
            Warning(
                f"MIDDLEWARE holds {MIDDLEWARE!r} {middleware.count(MIDDLEWARE)} times.",
                hint="Keep the first. Each of them does the whole work for every request.",
                id="flosse_bus.W002",
            )
        )
    before = middleware[: middleware.index(MIDDLEWARE)]
    if GZIP in before:
        messages.append(
            Warning(
                f"{GZIP!r} comes before {MIDDLEWARE!r} in MIDDLEWARE.",
                hint=(
                    "Put it after. From there it is kept off streams only by a header that then "
                    "reaches the client: Content-Encoding: identity (RFC 9110, section 8.4.1)."
                ),
                id="flosse_bus.W002",
            )
        )
    if CORS_HEADERS in before and _lists_origins():
        messages.append(
            Warning(
                f"{CORS_HEADERS!r} comes before {MIDDLEWARE!r} in MIDDLEWARE.",
                hint=(
                    "Put it after. From there it answers every preflight without regard to "
                    "ALLOWED_ORIGINS, and overwrites the headers of streams: with "
                    "CORS_ALLOW_ALL_ORIGINS browsers then refuse streams with credentials."
                ),
                id="flosse_bus.W002",
            )
        )
    return messages


def _lists_origins() -> bool:
    try:
        return any(load(alias).allowed_origins for alias in configured_aliases())
    except InvalidBusBackend:
        return False  # E001 has said so


def check_publications(**kwargs: Any) -> list[CheckMessage]:
    """E002: publish_changes was told something that the model or the settings cannot do."""
    messages: list[CheckMessage] = []
    try:
        aliases = configured_aliases()
    except InvalidBusBackend:
        aliases = None  # E001 has said so
    for publication in publications():
        try:
            publication.validate()
        except ImproperlyConfigured as error:
            messages.append(Error(str(error), obj=publication.model, id="flosse_bus.E002"))
        messages += publication.warnings()
        if aliases is not None and publication.bus not in aliases:
            messages.append(
                Error(
                    f"publish_changes({publication.model.__name__}): bus: FLOSSE_BUS has no "
                    f"{publication.bus!r}.",
                    obj=publication.model,
                    id="flosse_bus.E002",
                )
            )
    return messages


def check_authorisers(**kwargs: Any) -> list[CheckMessage]:
    """W003: an authoriser that can never be asked, because its topics are public on every bus."""
    try:
        configs = [load(alias) for alias in configured_aliases()]
    except InvalidBusBackend:
        return []  # E001 has said so
    found = [authorisers.shadowed(config.public_topics) for config in configs]
    return [
        Warning(
            f"{label} is never asked: PUBLIC_TOPICS covers {template!r}.",
            hint="Take the topic out of PUBLIC_TOPICS, or remove the authoriser.",
            id="flosse_bus.W003",
        )
        for template, label in found[0].items()
        if all(template in shadowed for shadowed in found)
    ]
