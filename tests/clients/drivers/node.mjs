// Runs the npm libraries that are made for node. Usage: node node.mjs DESK PACKAGES
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { desk, follow, watched } from "./follow.mjs";

const [, , url, packages] = process.argv;
const require = createRequire(pathToFileURL(join(packages, "package.json")));
const EventSource2 = require("eventsource-2");
const { EventSource: EventSource3 } = require("eventsource-3");
const { EventSource: EventSource4 } = require("eventsource-4");
const { Agent, EventSource: UndiciSource, fetch: undiciFetch } = require("undici");
const { createEventSource } = require("eventsource-client");
const { EventSource: LaunchDarklySource } = require("launchdarkly-eventsource");

/** A fetch that gives up a body of which nothing has come for so many milliseconds. */
const impatient = (patience) => {
  const dispatcher = new Agent(patience ? { bodyTimeout: patience } : {});
  return (url, init) => undiciFetch(url, { ...init, dispatcher });
};

const clients = {
  "eventsource 2": (order, note) =>
    watched((order, note) => follow(new EventSource2(order.url), order, note), order, note),
  "eventsource 3": (order, note) =>
    follow(new EventSource3(order.url, { fetch: impatient(order.patience) }), order, note),
  "eventsource 4": (order, note) =>
    follow(new EventSource4(order.url, { fetch: impatient(order.patience) }), order, note),
  "undici": (order, note) =>
    watched((order, note) => follow(new UndiciSource(order.url), order, note), order, note),
  "eventsource-client": (order, note) => {
    const source = createEventSource({
      url: order.url,
      fetch: impatient(order.patience),
      onConnect: () => note({ kind: "open" }),
      onDisconnect: () => note({ kind: "error" }),
      onMessage: ({ id, event, data }) => note({ kind: "event", event: event ?? "message", id, data }),
    });
    return () => source.close();
  },
  "launchdarkly-eventsource": (order, note) =>
    follow(
      new LaunchDarklySource(order.url, order.patience ? { readTimeoutMillis: order.patience } : {}),
      order, note,
    ),
};

process.on("uncaughtException", (error) => console.error(error));
process.on("unhandledRejection", (error) => console.error(error));

const said = [];
let posting = false;
async function say(entry) {
  said.push(JSON.stringify(entry));
  if (posting) return;
  posting = true;
  while (said.length) {
    await fetch(`${url}/seen/`, { method: "POST", body: said.splice(0).join("\n") });
  }
  posting = false;
}

const obey = desk(clients, say);
for (;;) {
  const order = await (await fetch(`${url}/orders/node`)).json();
  if (order.run) obey(order);
}
