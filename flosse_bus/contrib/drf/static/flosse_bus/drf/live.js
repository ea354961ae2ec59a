// Shows the stream of the page's endpoint as it comes. An EventSource would hand out only those
// events whose names it is told beforehand.
(() => {
  "use strict";

  const KEPT = 1000; // pieces
  const { url } = document.currentScript.dataset;
  const output = document.createElement("pre");
  output.id = "flosse-stream";
  output.setAttribute("role", "log");
  const label = document.createElement("p");
  label.className = "text-muted";
  document.querySelector(".response-info").append(output, label);

  const state = (name) => {
    output.dataset.state = name;
    label.textContent = name;
  };

  const show = (text) => {
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 2;
    output.append(text);
    while (output.childNodes.length > KEPT) output.firstChild.remove();
    if (atEnd) output.scrollIntoView({ block: "end" });
  };

  const follow = async () => {
    const response = await fetch(url, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
    });
    if (!response.ok) show(`HTTP ${response.status} ${response.statusText}\n\n`);
    state(response.ok ? "live" : "refused");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      show(value);
    }
  };

  state("connecting");
  follow()
    .then(() => {
      if (output.dataset.state === "live") state("ended");
    })
    .catch((error) => {
      state("broken");
      show(`\n${error.message}\n`);
    });
})();
