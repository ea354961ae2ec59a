"""CORS: streams, refusals and preflights, for the origins that are listed and for no others."""

from __future__ import annotations

import pytest

from flosse_bus import bus
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from tests.asgi import site

pytestmark = pytest.mark.django_db(transaction=True)

BUS, CORS = "flosse_bus.middleware.BusMiddleware", "tests.lab.middleware.allow_all"
ORIGIN, OTHER = "https://app.example.com", "https://audit.example.com"
FOREIGN = "https://evil.example"


@pytest.fixture(autouse=True)
def lab(settings):
    settings.ROOT_URLCONF = "tests.lab.streams"
    settings.MIDDLEWARE = [BUS]
    settings.FLOSSE_BUS = {
        "default": {"PUBLIC_TOPICS": ["news"], "ALLOWED_ORIGINS": [ORIGIN], "MAX_TOPICS": 2},
        "audit": {"PUBLIC_TOPICS": ["news"], "ALLOWED_ORIGINS": [OTHER]},
    }


def cors_of(response):
    return {
        name.removeprefix("Access-Control-"): value
        for name, value in response.headers.items()
        if name.startswith("Access-Control-")
    }


READABLE = {
    "Allow-Origin": ORIGIN,
    "Allow-Credentials": "true",
    "Expose-Headers": "Retry-After",
}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("https://app.example.com.evil.example", False),
        ("https://APP.example.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com/", False),
        (OTHER, False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        "/events/?topic=news",
        "/events/?topic=secret",
        "/refused/",
        "/generated/",
        "/generated/for-nobody/",
        "/marked/",
        "/sync/",
    ],
)
def test_origins_are_compared_exactly(client, url, origin, allowed):
    headers = {} if origin is None else {"HTTP_ORIGIN": origin}
    response = client.get(url, **headers)
    assert cors_of(response) == (READABLE if allowed else {})
    assert "Origin" in response["Vary"]
    response.close()


@pytest.mark.parametrize(
    ("url", "origin", "allowed"),
    [
        ("/events/?topic=news", OTHER, False),
        ("/audit/?topic=news", OTHER, True),
        ("/audit/?topic=news", ORIGIN, False),
        ("/audit/class/?topic=secret", OTHER, True),
        ("/audit/class/?topic=secret", ORIGIN, False),
        ("/audit/?topic=secret", OTHER, True),
        ("/audit/?topic=secret", ORIGIN, False),
    ],
)
@pytest.mark.parametrize("method", ["get", "head"])
def test_each_bus_has_origins_of_its_own(client, method, url, origin, allowed):
    response = getattr(client, method)(url, HTTP_ORIGIN=origin)
    assert cors_of(response) == ({**READABLE, "Allow-Origin": origin} if allowed else {})
    response.close()


REFUSALS = [
    ("/events/", 400),
    ("/events/?topic=secret", 403),
    ("/events/?topic=a&topic=b&topic=c", 429),
    ("/refused/", 403),
    ("/generated/for-nobody/", 403),
    ("/events/?topic=down", 503),
]


@pytest.mark.parametrize(("url", "status"), REFUSALS)
def test_refusals_can_be_read(client, monkeypatch, settings, url, status):
    if status == 503:
        settings.FLOSSE_BUS["default"]["PUBLIC_TOPICS"] = ["down"]

        def tail(self):
            raise BackendUnavailable

        monkeypatch.setattr(MemoryBackend, "tail", tail)
    response = client.get(url, HTTP_ORIGIN=ORIGIN)
    assert (response.status_code, cors_of(response)) == (status, READABLE)
    response = client.get(url, HTTP_ORIGIN=FOREIGN)
    assert (response.status_code, cors_of(response)) == (status, {})


def test_other_refusals_can_be_read_too(client):
    client.raise_request_exception = False
    for method, url, status in [("post", "/events/", 405), ("get", "/broken/", 500)]:
        response = getattr(client, method)(url, HTTP_ORIGIN=ORIGIN)
        assert (response.status_code, cors_of(response)) == (status, READABLE)


@pytest.mark.parametrize("url", ["/ordinary/", "/events/health/", "/nowhere/"])
def test_what_has_nothing_to_do_with_streams_is_left_alone(client, url):
    response = client.get(url, HTTP_ORIGIN=ORIGIN)
    assert cors_of(response) == {}
    assert "Origin" not in response.get("Vary", "")


def test_without_origins_there_is_no_vary(client, settings):
    settings.FLOSSE_BUS = {"default": {"PUBLIC_TOPICS": ["news"]}}
    for url in ["/events/?topic=news", "/events/?topic=secret"]:
        response = client.get(url, HTTP_ORIGIN=ORIGIN)
        assert cors_of(response) == {}
        assert "Origin" not in response.get("Vary", "")
        response.close()


# Preflights

HEADERS = (
    "accept, authorization, baggage, cache-control, content-type, datastar-request, last-event-id, "
    "pragma, sentry-trace, traceparent, tracestate, x-csrftoken, x-requested-with"
)
GET, ALL = (HEADERS, "GET, HEAD"), (HEADERS, "GET, HEAD, POST")


def answered(what):
    headers, methods = what
    return {
        "Allow-Origin": ORIGIN,
        "Allow-Credentials": "true",
        "Allow-Headers": headers,
        "Allow-Methods": methods,
        "Max-Age": "86400",
    }


PREFLIGHTS = [
    # path, origin, method, headers, what is answered: None is what the view, or Django, says
    ("/events/", ORIGIN, "GET", None, ALL),
    ("/events/", ORIGIN, "GET", "", ALL),
    ("/events/", ORIGIN, "HEAD", "last-event-id", ALL),
    ("/events/", ORIGIN, "GET", "Last-Event-ID,cache-control , Authorization,accept", ALL),
    *(
        ("/events/", ORIGIN, "GET", name, ALL)
        for name in (
            "X-CSRFToken",
            "X-Requested-With",
            "traceparent",
            "Pragma",
            "Datastar-Request",
            "Authorization",
        )
    ),
    ("/events/", ORIGIN, "GET", "x-other", None),
    ("/events/", ORIGIN, "GET", "last-event-id, x-other", None),
    ("/events/", ORIGIN, "DELETE", None, None),
    ("/events/", ORIGIN, "get", None, None),
    ("/events/", ORIGIN, None, None, None),
    ("/events/", FOREIGN, "GET", "last-event-id", None),
    ("/events/", "null", "GET", "last-event-id", None),
    ("/events/", OTHER, "GET", "last-event-id", None),
    ("/events/", None, "GET", "last-event-id", None),
    ("/audit/", ORIGIN, "GET", "last-event-id", None),
    ("/refused/", ORIGIN, "GET", "authorization", ALL),
    ("/generated/", ORIGIN, "POST", "content-type", ALL),
    ("/generated/for-nobody/", ORIGIN, "POST", "content-type", ALL),
    ("/marked/", ORIGIN, "POST", "content-type", ALL),
    ("/marked/", FOREIGN, "POST", "content-type", None),
    ("/de/local/", ORIGIN, "GET", "authorization", ALL),
    ("/sync/", ORIGIN, "GET", "last-event-id", GET),
    ("/sync/", OTHER, "GET", "last-event-id", {**answered(GET), "Allow-Origin": OTHER}),
    ("/sync/", FOREIGN, "GET", "last-event-id", None),
    ("/sync/", ORIGIN, "GET", None, None),
    ("/sync/", ORIGIN, "GET", "authorization", None),
    ("/sync/", ORIGIN, "POST", "last-event-id", None),
    ("/sync/", ORIGIN, "GET", "last-event-id, content-type", GET),
    ("/sync/", ORIGIN, "GET", "last-event-id, x-other", None),
    ("/ordinary/", ORIGIN, "GET", "authorization", None),
    ("/events/health/", ORIGIN, "GET", "authorization", None),
    ("/nowhere/", ORIGIN, "GET", "authorization", None),
    ("/events", ORIGIN, "GET", "authorization", None),
]


def asked(origin, method, headers):
    named = {"Origin": origin, "Access-Control-Request-Method": method,
             "Access-Control-Request-Headers": headers}  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def meta(headers):
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}


@pytest.mark.parametrize(("url", "origin", "method", "headers", "expected"), PREFLIGHTS)
def test_preflights(client, url, origin, method, headers, expected):
    response = client.options(url, **meta(asked(origin, method, headers)))
    if expected is None:
        assert "Allow-Methods" not in cors_of(response)
        assert "Allow-Headers" not in cors_of(response)
        assert origin == ORIGIN or cors_of(response) == {}
        assert response.status_code != 204
    else:
        assert cors_of(response) == (answered(expected) if expected in (GET, ALL) else expected)
        assert (response.status_code, response.content) == (204, b"")
        assert "Content-Type" not in response
        assert {name.strip() for name in response["Vary"].split(",")} == {
            "Origin",
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers",
        }
    response.close()


def test_other_headers_may_be_allowed(client, settings):
    settings.FLOSSE_BUS["default"]["ALLOWED_HEADERS"] = ["X-Tenant"]
    for name, allowed in [("x-tenant", True), ("last-event-id", True), ("x-csrftoken", False)]:
        response = client.options("/events/", **meta(asked(ORIGIN, "GET", name)))
        assert ("Allow-Headers" in cors_of(response)) is allowed, name


def test_preflights_under_asgi(run):
    headers = asked(ORIGIN, "GET", "last-event-id").items()

    async def main():
        async with site() as here:
            response = await here.get("/events/", method="OPTIONS", headers=headers)
            assert response.status == 204
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert response.pieces == [b""]

    run(main())


def test_refusals_and_streams_under_asgi(run):
    async def main():
        async with site() as here:
            for url, status in [("/events/?topic=secret", 403), ("/events/?topic=news", 200)]:
                exchange = here.ask(url, headers=[("origin", ORIGIN)])
                await (exchange.over() if status == 403 else exchange.begun())
                assert exchange.status == status
                assert exchange.headers["access-control-allow-origin"] == ORIGIN
                exchange.leave()

    run(main())


# With a middleware that answers for CORS as well


@pytest.mark.parametrize("origin", [ORIGIN, FOREIGN])
@pytest.mark.parametrize("url", ["/events/?topic=news", "/events/?topic=secret", "/sync/"])
def test_another_inside(settings, client, url, origin):
    """What is ours is answered by us, once; the rest is theirs."""
    settings.MIDDLEWARE = [BUS, CORS]
    response = client.get(url, HTTP_ORIGIN=origin)
    assert cors_of(response) == (READABLE if origin == ORIGIN else {"Allow-Origin": "*"})
    response.close()
    asks = meta(asked(origin, "GET", "last-event-id"))
    answer = cors_of(client.options(url, **asks))
    if origin == ORIGIN:
        assert (answer["Allow-Origin"], answer["Allow-Credentials"]) == (ORIGIN, "true")
    else:
        assert answer == {
            "Allow-Origin": "*",
            "Allow-Methods": "DELETE, GET",
            "Allow-Headers": "x-custom",
        }


@pytest.mark.parametrize(
    ("url", "headers"), [("/ordinary/", "authorization"), ("/events/", "x-custom")]
)
def test_preflights_that_are_not_ours_reach_another_inside(settings, client, url, headers):
    settings.MIDDLEWARE = [BUS, CORS]
    answer = cors_of(client.options(url, **meta(asked(ORIGIN, "GET", headers))))
    assert answer == {
        "Allow-Origin": "*",
        "Allow-Methods": "DELETE, GET",
        "Allow-Headers": "x-custom",
    }


def test_what_else_is_exposed_stays_exposed(client):
    response = client.get("/exposing/", HTTP_ORIGIN=ORIGIN)
    assert cors_of(response)["Expose-Headers"] == "X-Mine"
    response.close()


def test_events_arrive_all_the_same(subscribe):
    stream = subscribe("topic=news", HTTP_ORIGIN=ORIGIN)
    next(stream)
    bus.publish("news", 1)
    assert stream.event().data == "1"
