"""The order board in headless Chromium, with its native EventSource."""

from __future__ import annotations

import pytest

from tests.processes import wait_until
from tests.proxies import Nginx
from tests.servers.test_servers import place, streams

pytestmark = [pytest.mark.server, pytest.mark.browser]


def rows(page):
    return page.locator("#orders tr")


def live(page):
    page.wait_for_selector('#state[data-state="live"]')


def has_text(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent === text",
        arg=[selector, text],
    )


def test_the_board_moves_without_a_reload(serve, http, page):
    server = serve("uvicorn")
    page.goto(server.url)
    live(page)
    assert rows(page).count() == 6
    page.evaluate("window.stillHere = true")
    place(http, server.url, "Grinder")
    has_text(page, "#events", "1")
    assert rows(page).count() == 7
    assert "Grinder" in rows(page).first.inner_text()
    page.select_option("#place [name=item]", "Kettle")
    page.select_option("#place [name=customer]", index=1)
    page.click("#place button")
    has_text(page, "#events", "2")
    assert "Kettle" in rows(page).first.inner_text()
    assert page.evaluate("window.stillHere") is True


def test_the_board_survives_a_restart_and_refetches(serve, http, page):
    server = serve("uvicorn")
    page.goto(server.url)
    live(page)
    place(http, server.url)
    has_text(page, "#events", "1")
    server.stop()
    page.wait_for_selector('#state[data-state="reconnecting"]')
    server = serve("uvicorn", port=server.port)
    place(http, server.url, "Cup and saucer")  # maybe missed by the page: history is gone
    has_text(page, "#resets", "1")
    page.wait_for_function(
        "document.querySelector('#orders tr').innerText.includes('Cup and saucer')"
    )
    live(page)
    place(http, server.url, "Grinder")
    page.wait_for_function("document.querySelector('#orders').innerText.includes('Grinder')")
    assert rows(page).count() == 9
    assert page.locator("#log .reset").count() == 1


def log_in(page, url):
    page.goto(f"{url}/login/")
    page.fill("[name=username]", "demo")
    page.fill("[name=password]", "demo")
    page.click("main button")
    live(page)


def log_out_in_another_tab(page, url):
    """The server ends the streams of the session."""
    other = page.context.new_page()
    other.goto(url)
    other.click("nav form button")
    other.wait_for_selector("nav a[href='/login/']")
    other.close()


def test_a_cut_stream_resumes_by_itself_without_a_reset(serve, http, page):
    """The browser keeps the id of the opening block and of heartbeats, which dispatch nothing."""
    server = serve("uvicorn", bus={"HEARTBEAT": 0.3, "RETRY": 4000})
    log_in(page, server.url)
    log_out_in_another_tab(page, server.url)
    page.wait_for_selector('#state[data-state="reconnecting"]')
    for item in ("Grinder", "Kettle"):
        place(http, server.url, item)
    has_text(page, "#events", "2")
    assert page.locator("#resets").inner_text() == "0"
    assert [t.split("\t")[2] for t in rows(page).all_inner_texts()[:2]] == ["Kettle", "Grinder"]


def test_the_private_page(serve, http, page):
    server = serve("uvicorn")
    log_in(page, server.url)
    page.goto(f"{server.url}/customers/1/")
    live(page)
    before = rows(page).count()
    place(http, server.url, "Grinder")  # of customer 1
    has_text(page, "#events", "1")
    assert rows(page).count() == before + 1
    # Logged out, the stream ends, and the answer to its return is no.
    log_out_in_another_tab(page, server.url)
    page.wait_for_selector('#state[data-state="refused"]')


def test_an_event_source_gives_up_on_403(serve, page):
    server = serve("uvicorn")
    page.goto(server.url)
    state = page.evaluate(
        """() => new Promise((resolve) => {
            const source = new EventSource("/events/?topic=secret");
            source.onerror = () => resolve(source.readyState);
        })"""
    )
    assert state == 2  # CLOSED


@pytest.mark.parametrize("listed", [True, False])
def test_pages_of_other_origins(serve, page, listed):
    """An origin is scheme, host and port: a second server's pages are of another one."""
    pages = serve("uvicorn")
    server = serve("uvicorn", bus={"ALLOWED_ORIGINS": [pages.url] if listed else []})
    page.goto(f"{pages.url}/login/")
    seen = page.evaluate(
        """async (events) => {
            const source = new EventSource(`${events}?topic=news`, { withCredentials: true });
            const first = await new Promise((resolve) => {
                source.onopen = () => resolve("open");
                source.onerror = () => resolve("error");
            });
            source.close();
            const ask = async (query, headers) => {
                try {
                    const response = await fetch(events + query, { headers, credentials: "include" });
                    if (response.status != 200) return [response.status, await response.json()];
                    const reader = response.body.getReader();
                    const { value } = await reader.read();
                    reader.cancel();
                    return [200, new TextDecoder().decode(value).slice(0, 6)];
                } catch (error) {
                    return [error.name];
                }
            };
            return [
                first,
                await ask("?topic=news", { "Last-Event-ID": "earliest" }),
                await ask("?topic=news", { Authorization: "Bearer x", Accept: "text/event-stream" }),
                await ask("?topic=secret", { "Last-Event-ID": "earliest" }),
                await ask("?topic=news", {
                    "X-CSRFToken": "x",
                    "X-Requested-With": "XMLHttpRequest",
                    "Datastar-Request": "true",
                    "Content-Type": "application/json",
                    Pragma: "no-cache",
                    "Cache-Control": "no-cache",
                    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                    tracestate: "x=1",
                    baggage: "x=1",
                }),
                await ask("?topic=news", { "X-Other": "1" }),
                await ask("health/", {}),
            ];
        }""",
        f"{server.url}/events/",
    )
    assert seen[-2:] == [["TypeError"], ["TypeError"]]  # never ours to allow
    if listed:
        assert seen[:3] == ["open", [200, "retry:"], [200, "retry:"]]
        status, body = seen[3]
        assert (status, body["topics"]) == (403, ["secret"])
        assert seen[4] == [200, "retry:"]
    else:
        assert seen[:5] == ["error", *[["TypeError"]] * 4]


def test_an_event_source_over_a_limit_is_told_and_comes_back(serve, http, page):
    """A page of another origin reads why, keeps its position, and gets in when there is room."""
    pages = serve("uvicorn")
    server = serve("uvicorn", bus={"ALLOWED_ORIGINS": [pages.url], "MAX_STREAMS": 1, "RETRY": 200})
    page.goto(f"{pages.url}/login/")
    page.evaluate(
        """async (events) => {
            window.first = new EventSource(`${events}?topic=news`);
            const { lastEventId } = await new Promise((resolve) => {
                window.first.addEventListener("stream-open", resolve);
            });
            window.codes = [];
            window.seen = [];
            const query = new URLSearchParams({ topic: "orders", last_event_id: lastEventId });
            const second = new EventSource(`${events}?${query}`);
            second.addEventListener("stream-error", ({ data, lastEventId: id }) => {
                window.codes.push([JSON.parse(data).code, id === lastEventId]);
            });
            second.addEventListener("shop.order.created", ({ data }) => window.seen.push(data));
        }""",
        f"{server.url}/events/",
    )
    page.wait_for_function("window.codes.length >= 2")
    place(http, server.url, "Kettle")  # while it is kept out
    page.evaluate("window.first.close()")
    page.wait_for_function("window.seen.length === 1")
    codes = page.evaluate("window.codes")
    assert codes == [["limited", True]] * len(codes)


def test_the_page_is_closed_and_the_stream_is_gone(serve, http, page):
    server = serve("uvicorn")
    page.goto(server.url)
    live(page)
    page.goto("about:blank")
    health = f"{server.url}/events/health/"
    wait_until(
        lambda: http.get(health).json()["buses"]["default"]["streams"] == 0, "the stream to end"
    )


#: Ten streams, and how many of them have opened.
TEN = """() => {
  window.opened = 0;
  window.sources = Array.from({ length: 10 }, () => new EventSource("/events/?topic=news"));
  for (const source of window.sources) source.onopen = () => (window.opened += 1);
}"""


def test_a_browser_opens_six_streams_to_a_host_over_http_1(serve, http, page):
    server = serve("uvicorn", bus={"HEARTBEAT": 60})
    page.goto(f"{server.url}/login/")
    page.evaluate(TEN)
    for closed in range(4):  # whoever is seventh waits until one is closed
        page.wait_for_function("count => window.opened === count", arg=6 + closed)
        assert streams(http, server.url) == 6
        page.evaluate("number => window.sources[number].close()", closed)
    page.wait_for_function("window.opened === 10")


def test_a_browser_opens_more_over_http_2(serve, behind, http, page):
    server = serve("uvicorn", bus={"HEARTBEAT": 60})
    page.goto(f"{behind(Nginx, server.port).url}/login/")
    page.evaluate(TEN)
    page.wait_for_function("window.opened === 10")
    assert streams(http, server.url) == 10
    page.evaluate("window.sources[0].close()")
    wait_until(lambda: streams(http, server.url) == 9, "one to be gone, alone")
