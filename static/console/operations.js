/* The living parts of an operation's page, and news for the list: an event stream; polling when there is none (too many are open,
   a proxy in between that swallows them). Nothing is open while the page is hidden. */
"use strict";
(() => {
  const live = document.querySelector("[data-live]");
  const news = document.currentScript?.dataset.news || document.querySelector("script[data-news]")?.dataset.news;
  const url = live ? live.dataset.live : news;
  if (!url || (live && live.dataset.ended)) return;
  let source = null, timer = 0, misses = 0, over = false, refreshed = 0;

  const items = () => { // the table below, and the list, are read again at most every three seconds
    const wait = 3000 - (Date.now() - refreshed);
    if (wait > 0) { clearTimeout(items.later); items.later = setTimeout(items, wait); return; }
    refreshed = Date.now();
    if (window.htmx && !document.querySelector("input[data-pick]:checked, dialog[open]")) htmx.trigger(document.body, "refresh");
  };

  function put(text) {
    if (!live) { if (put.last !== undefined && put.last !== text) items(); put.last = text; return; }
    const doc = new DOMParser().parseFromString(text, "text/html");
    const before = document.querySelector('[data-part="body"]').dataset;
    const was = before.failed + before.state;
    for (const part of doc.querySelectorAll("[data-part]")) {
      const here = document.querySelector(`[data-part="${part.dataset.part}"]`);
      if (here && here.outerHTML !== part.outerHTML) here.replaceWith(document.adoptNode(part));
    }
    document.body.dispatchEvent(new CustomEvent("htmx:after:swap", { bubbles: true })); // the data are new: their age begins anew
    const after = document.querySelector('[data-part="body"]').dataset;
    if (was !== after.failed + after.state) items();
    if (["succeeded", "partial", "failed", "cancelled"].includes(after.state)) { over = true; stop(); }
  }

  async function poll() {
    try {
      if (!live) { items(); return; }
      const answer = await fetch(live.dataset.poll, { headers: { Accept: "text/html" } });
      if (answer.redirected) { location.reload(); return; }
      if (answer.ok) put(await answer.text());
    } catch { /* the server is away: the next turn asks again */ }
  }

  function listen() {
    if (over || source || timer || document.hidden) return;
    source = new EventSource(url);
    source.onmessage = (e) => { misses = 0; put(e.data); };
    source.addEventListener("end", () => { over = true; stop(); });
    source.addEventListener("full", fall);
    source.onerror = () => { if (source && (source.readyState === EventSource.CLOSED || ++misses > 3)) fall(); };
  }
  function fall() { stop(); if (!over && !document.hidden) { poll(); timer = setInterval(poll, 3000); } }
  function stop() { if (source) { source.close(); source = null; } clearInterval(timer); timer = 0; }

  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else { misses = 0; listen(); } });
  addEventListener("pagehide", stop);
  listen();
})();
