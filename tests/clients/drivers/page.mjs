// Runs one client in a page, which is shown in a frame and talks to the page around it.
import { desk, follow, watched } from "./follow.mjs";

const load = (src) =>
  new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { src, onload: resolve, onerror: reject });
    document.head.append(script);
  });

const native = (order, note) =>
  watched((order, note) => follow(new EventSource(order.url), order, note), order, note);

/** Import what only some clients need, when the first order comes. */
async function clientNamed(name) {
  if (name === "reconnecting-eventsource") {
    const { default: Source } = await import("reconnecting-eventsource");
    return (order, note) =>
      watched((order, note) => follow(new Source(order.url), order, note), order, note);
  }
  if (name === "event-source-polyfill") {
    await load("/package/event-source-polyfill/src/eventsource.js");
    return (order, note) =>
      follow(
        new EventSourcePolyfill(order.url, {
          heartbeatTimeout: order.patience || 45_000,
          lastEventIdQueryParameterName: order.naive ? "position" : "lastEventId",
        }),
        order, note,
      );
  }
  if (name === "@microsoft/fetch-event-source") {
    const { fetchEventSource } = await import("@microsoft/fetch-event-source");
    const start = (order, note) => {
      const stopping = new AbortController();
      let last = "";
      fetchEventSource(order.url, {
        // Its own header may have the id of an event whose end it has not seen.
        fetch: (input, { headers, ...init }) => {
          const { "last-event-id": seen, ...others } = headers;
          return fetch(input, { ...init, headers: last ? { ...others, "last-event-id": last } : others });
        },
        openWhenHidden: true,
        signal: stopping.signal,
        async onopen(response) {
          if (!response.ok) throw new Error(String(response.status));
          note({ kind: "open" });
        },
        onmessage({ id, event, data }) {
          if (id) last = id;
          if (data === "") note({ kind: "empty", id, event });
          else note({ kind: "event", event: event || "message", id, data });
        },
        onclose() {
          if (!order.naive) throw new Error("The stream has ended.");
          note({ kind: "error", detail: "end" });
        },
        onerror(error) {
          note({ kind: "error", detail: String(error) });
        },
      });
      return () => stopping.abort();
    };
    return (order, note) => watched(start, order, note);
  }
  if (name === "@hotwired/turbo") {
    const turbo = await import("@hotwired/turbo");
    const start = (order, note) => {
      const log = Object.assign(document.createElement("div"), { className: "log" });
      document.body.append(log);
      const source = new EventSource(order.url);
      const stop = follow(source, order, (entry) => {
        // What Turbo has rendered is what counts as seen.
        if (entry.event?.startsWith("stream-") || entry.kind !== "event") note(entry);
      });
      let id = "";
      source.addEventListener("message", (event) => { id = event.lastEventId; });
      turbo.connectStreamSource(source);
      const observer = new MutationObserver((records) => {
        for (const { addedNodes } of records) {
          for (const node of addedNodes) note({ kind: "event", event: "message", id, data: node.outerHTML });
        }
      });
      observer.observe(log, { childList: true });
      return () => {
        turbo.disconnectStreamSource(source);
        stop();
        observer.disconnect();
        log.remove();
      };
    };
    return (order, note) => watched(start, order, note);
  }
  if (name === "htmx") {
    await load("/package/htmx.org/dist/htmx.js");
    await load("/package/htmx-ext-sse/dist/sse.js");
    const start = (order, note) => {
      const element = document.createElement("div");
      element.setAttribute("hx-ext", "sse");
      element.setAttribute("sse-connect", order.url);
      element.setAttribute("sse-swap", ["message", ...order.names].join(","));
      element.setAttribute("hx-swap", "beforeend");
      let opened = false;
      element.addEventListener("htmx:sseOpen", () => {
        // It may be a new source, which began at its own URL: a page fetches its content again.
        note({ kind: opened ? "refetch" : "open" });
        opened = true;
      });
      element.addEventListener("htmx:sseError", () => note({ kind: "error" }));
      element.addEventListener("htmx:sseMessage", ({ detail }) =>
        note({ kind: "event", event: detail.type, id: detail.lastEventId, data: detail.data }));
      document.body.append(element);
      htmx.process(element);
      return () => htmx.remove(element);
    };
    return (order, note) => watched(start, order, note);
  }
  if (name === "Datastar") {
    await import("/package/@starfederation/datastar/dist/bundles/datastar.js");
    return (order, note) => {
      const log = Object.assign(document.createElement("div"), { className: "log" });
      document.body.append(log);
      new MutationObserver((records) => {
        for (const { addedNodes } of records) {
          for (const node of addedNodes) note({ kind: "event", event: "message", data: node.outerHTML });
        }
      }).observe(log, { childList: true });
      const start = (url) => {
        const element = document.createElement("div");
        element.setAttribute("data-on-load", `@get('${url}', {openWhenHidden: true})`);
        document.body.append(element);
      };
      document.addEventListener("datastar-sse", async ({ detail }) => {
        note({ kind: detail.type });
        if (detail.type !== "finished" || order.naive) return;
        // A page fetches its content again, and with it the place at which its stream begins.
        const cursor = await fetchedAgain("/cursor/");
        note({ kind: "refetch" });
        const url = new URL(order.url);
        url.searchParams.set("last_event_id", cursor);
        start(url);
      });
      start(order.url);
      return () => {}; // its page goes
    };
  }
  return native;
}

/** Fetch until there is an answer: the server may be away. */
async function fetchedAgain(url) {
  for (;;) {
    try {
      const response = await fetch(url, { cache: "no-store" });
      if (response.ok) return await response.text();
    } catch {}
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const say = (entry) => parent.postMessage(entry, "*");
addEventListener("unhandledrejection", ({ reason }) => console.error(reason));
let obey;
addEventListener("message", async ({ data: order }) => {
  if (!order.run) return;
  obey ??= clientNamed(order.client).then((client) => desk({ [order.client]: client }, say));
  try {
    (await obey)(order);
  } catch (error) {
    say({ run: order.run, kind: "broken", detail: String(error?.stack ?? error) });
  }
});
