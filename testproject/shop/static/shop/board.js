"use strict";
// The page is rendered with a cursor; the stream goes on from there. Native EventSource, no library.
(() => {
  const { stream, refetch } = document.currentScript.dataset;
  const byId = (id) => document.getElementById(id);
  let live = JSON.parse(byId("live").textContent);
  const orders = new Map();
  let source;
  let cursor;
  let events = 0;
  let resets = 0;

  function show(pk, fields, changed) {
    // A private page hears of orders that leave it, too.
    if (live.customer !== null && fields.customer !== live.customer) return remove(pk);
    let row = orders.get(pk)?.row;
    if (!row) {
      row = document.createElement("tr");
      for (let i = 0; i < 6; i++) row.insertCell();
      row.cells[3].className = row.cells[4].className = "number";
      row.cells[5].append(document.createElement("span"));
      const next = [...orders.keys()].filter((other) => other < pk).sort((a, b) => b - a)[0];
      byId("orders").insertBefore(row, next === undefined ? null : orders.get(next).row);
    }
    orders.set(pk, { row, status: fields.status });
    const name = live.customers[fields.customer] ?? "–";
    [pk, name, fields.item, fields.quantity, fields.total].forEach((value, i) => {
      row.cells[i].textContent = value;
    });
    const badge = row.cells[5].firstChild;
    badge.textContent = fields.status;
    badge.className = `status ${fields.status}`;
    if (changed) {
      row.classList.remove("changed");
      void row.offsetWidth; // restarts the animation
      row.classList.add("changed");
    }
  }

  function remove(pk) {
    orders.get(pk)?.row.remove();
    orders.delete(pk);
  }

  function count() {
    const statuses = [...orders.values()].map((order) => order.status);
    byId("sent").textContent = statuses.filter((status) => status === "sent").length;
    byId("open").textContent = statuses.filter((status) => status !== "sent").length;
    byId("events").textContent = events;
    byId("resets").textContent = resets;
    byId("empty").hidden = orders.size > 0;
  }

  function log(text, kind = "") {
    const line = document.createElement("li");
    line.className = kind;
    line.textContent = `${new Date().toLocaleTimeString("en-GB")} ${text}`;
    byId("log").prepend(line);
    while (byId("log").children.length > 12) byId("log").lastChild.remove();
  }

  function state(name) {
    byId("state").dataset.state = name;
    byId("state").textContent = name;
  }

  function render() {
    byId("orders").replaceChildren();
    orders.clear();
    for (const order of [...live.orders].reverse()) show(order.pk, order, false);
    count();
  }

  function follow() {
    const query = new URLSearchParams({ topic: live.topic, last_event_id: cursor });
    source = new EventSource(`${stream}?${query}`);
    source.onopen = () => state("live");
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return state("reconnecting");
      // Not a network error but an answer: 403 is final, a proxy's 502 is worth another try.
      state("refused");
      setTimeout(follow, 5000);
    };
    for (const action of ["created", "updated", "deleted"]) {
      source.addEventListener(`shop.order.${action}`, (event) => {
        cursor = event.lastEventId;
        events += 1;
        const { pk, fields } = JSON.parse(event.data);
        if (action === "deleted") remove(pk);
        else show(pk, fields, true);
        count();
        log(`order ${pk} ${action}${action === "updated" ? `: ${fields.status}` : ""}`);
      });
    }
    source.addEventListener("stream-reset", async (event) => {
      // Start over: the data come with the cursor that they belong to, so that nothing can fall
      // between the two.
      source.close();
      resets += 1;
      log(`stream-reset (${JSON.parse(event.data).reason}): refetched`, "reset");
      live = await (await fetch(refetch)).json();
      cursor = live.cursor;
      render();
      follow();
    });
  }

  byId("place")?.addEventListener("submit", async (submit) => {
    submit.preventDefault();
    const form = submit.target;
    const answer = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/json" },
    });
    byId("placed").textContent = answer.ok ? "" : "That order could not be placed.";
  });

  cursor = live.cursor;
  render();
  follow();
})();
