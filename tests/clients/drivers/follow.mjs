// What is the same for everything that looks like an EventSource.

/** Write down what a source dispatches. Return what closes it. */
export function follow(source, { names }, note) {
  source.onopen = () => note({ kind: "open" });
  source.onerror = (error) =>
    note({ kind: "error", detail: String(error?.message ?? error?.status ?? ""), closed: source.readyState === 2 });
  for (const name of ["message", ...names]) {
    source.addEventListener(name, (event) =>
      note({ kind: "event", event: name, id: event.lastEventId, data: event.data }));
  }
  return () => source.close();
}

/**
 * Run what has no read timeout under one: if it says nothing for `patience` milliseconds, begin
 * anew after the last id. Heartbeats are events, so a stream that lives is never so long silent.
 */
export function watched(start, order, note) {
  if (!order.patience) return start(order, note);
  let last = "", heard = performance.now(), stop;
  const listen = (entry) => {
    heard = performance.now();
    if (entry.id) last = entry.id;
    note(entry);
  };
  stop = start(order, listen);
  const timer = setInterval(() => {
    if (performance.now() - heard < order.patience) return;
    heard = performance.now();
    stop();
    const url = last ? `${order.url}&last_event_id=${encodeURIComponent(last)}` : order.url;
    note({ kind: "again" });
    stop = start({ ...order, url }, listen);
  }, order.patience / 5);
  return () => { clearInterval(timer); stop(); };
}

/** Take orders, start and stop clients. `say` takes the entries. */
export function desk(clients, say) {
  const running = new Map();
  return (order) => {
    const note = (entry) => say({ run: order.run, ...entry });
    if (order.stop) {
      running.get(order.run)?.();
      running.delete(order.run);
      return;
    }
    try {
      running.set(order.run, clients[order.client](order, note));
    } catch (error) {
      note({ kind: "broken", detail: String(error?.stack ?? error) });
    }
  };
}
