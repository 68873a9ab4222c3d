/* Behaviour of the console's shell: sidebar, palette, keys, data age, bulk bar, confirm by name, toasts.
   No inline handlers and no style attributes anywhere: everything hangs on data attributes and classes. */
"use strict";
(() => {
  const $ = (s, r = document) => r.querySelector(s);
  const $$ = (s, r = document) => [...r.querySelectorAll(s)];
  const root = document.documentElement;
  const words = document.currentScript.dataset; // sprite, and what is said in the page's language
  const sprite = words.sprite;
  const store = { get: (k) => localStorage.getItem("mq." + k), set: (k, v) => localStorage.setItem("mq." + k, v) };
  const fmt = new Intl.NumberFormat("en-US");
  const typing = (el) => el && (el.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(el.tagName) && !/^(checkbox|radio|submit|button)$/.test(el.type));

  /* sidebar: full or rail, remembered */
  if (store.get("nav")) root.dataset.nav = store.get("nav");
  const act = {
    nav() { root.dataset.nav = root.dataset.nav === "rail" ? "full" : "rail"; store.set("nav", root.dataset.nav); },
    palette() { const d = $("#palette"); if (d && !d.open) { d.showModal(); $("input", d).value = ""; $("#hits", d).replaceChildren(); filter(""); } },
    keys() { const d = $("#keys"); if (d && !d.open) d.showModal(); },
    close(el) { const d = el.closest("dialog"); if (d) d.close(); },
    refresh() { refresh(); },
    copy(el) { navigator.clipboard.writeText(el.dataset.copy).then(() => toast({ title: words.copied, kind: "ok" })); },
    clear(el) { const box = el.closest("[data-bulk]"); $$("input[data-pick], input[data-pick-all]", box).forEach((c) => { c.checked = false; }); bulk(box); },
    matching(el) { // all that match, also on other pages: what matches is asked again when it is done
      const box = el.closest("[data-bulk]"); const all = $("[data-matching]", box); const on = !all.value;
      $$("input[data-pick], input[data-pick-all]", box).forEach((c) => { c.checked = on || c.checked; });
      bulk(box);
      all.value = on ? "1" : ""; el.setAttribute("aria-pressed", String(on));
      if (on && el.dataset.total) $$("[data-picked]", box).forEach((n) => { n.textContent = fmt.format(Number(el.dataset.total)); });
    },
  };
  document.addEventListener("click", (e) => {
    const el = e.target.closest("[data-act]");
    if (el && act[el.dataset.act]) { e.preventDefault(); act[el.dataset.act](el); return; }
    const off = e.target.closest('[aria-disabled="true"]');
    if (off) { e.preventDefault(); e.stopPropagation(); return; }
    if (e.target.tagName === "DIALOG") e.target.close();
    menus((d) => !d.contains(e.target));
    const row = e.target.closest("tr[data-href]");
    if (row && !e.target.closest("a,input,button,label") && !String(getSelection())) location.href = row.dataset.href;
  }, true);

  /* a menu closes by a click elsewhere, by Esc, and when the focus leaves it */
  function menus(which) { const open = $$("details.usermenu[open], details.chipmenu[open]").filter(which); open.forEach((d) => { d.open = false; }); return open; }
  document.addEventListener("focusin", (e) => menus((d) => !d.contains(e.target)));

  /* command palette */
  function filter(q) {
    let first = null;
    $$("#palette li").forEach((li) => {
      const a = $("a", li);
      if (!a) { li.hidden = Boolean(q) && !li.closest("#hits"); return; }
      a.setAttribute("aria-selected", "false");
      li.hidden = Boolean(q) && !li.closest("#hits") && !a.textContent.toLowerCase().includes(q.toLowerCase());
      if (!li.hidden && !first) first = a;
    });
    if (first) first.setAttribute("aria-selected", "true");
  }
  const pal = $("#palette");
  if (pal) {
    $("input", pal).addEventListener("input", (e) => filter(e.target.value.trim()));
    document.addEventListener("htmx:after:swap", () => { if (pal.open) filter($("input", pal).value.trim()); });
    pal.addEventListener("keydown", (e) => {
      const shown = $$("li:not([hidden]) a", pal);
      let n = shown.findIndex((a) => a.getAttribute("aria-selected") === "true");
      if (e.key === "ArrowDown" || e.key === "ArrowUp") {
        e.preventDefault();
        n = (n + (e.key === "ArrowDown" ? 1 : -1) + shown.length) % shown.length;
        shown.forEach((a, i) => a.setAttribute("aria-selected", String(i === n)));
        shown[n].scrollIntoView({ block: "nearest" });
      } else if (e.key === "Enter" && shown[n]) { e.preventDefault(); location.href = shown[n].href; }
    });
  }

  /* keys: "/" search, "?" help, "g t" and friends, j/k rows, Esc closes the drawer (a link, so the state is in the URL) */
  let lead = 0;
  document.addEventListener("keydown", (e) => {
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") { e.preventDefault(); act.palette(); return; }
    if (e.ctrlKey || e.metaKey || e.altKey || $("dialog[open]")) return;
    if (e.key === "Escape") { const x = $("[data-escape]"); const [menu] = menus(() => true); if (menu) $("summary", menu).focus(); else if (typing(e.target)) e.target.blur(); else if (x) x.click(); return; }
    if (typing(e.target)) return;
    if (lead && Date.now() - lead < 1200) {
      lead = 0;
      const to = $(`[data-go="${CSS.escape(e.key)}"]`);
      if (to) { e.preventDefault(); location.href = to.href; }
      return;
    }
    if (e.key === "g") lead = Date.now();
    else if (e.key === "?") { e.preventDefault(); act.keys(); }
    else if (e.key === "/") { const s = $("[data-search], #searchbar"); if (s) { e.preventDefault(); s.focus(); s.select(); } }
    else if (e.key === "r") refresh();
    else if (e.key === "[") act.nav();
    else if (e.key === "j" || e.key === "k") {
      const links = $$("table.dt tbody a[data-row], #result_list tbody th a");
      const row = document.activeElement.closest("tr"); // also from a box or another link of the row
      const i = links.findIndex((a) => a === document.activeElement || (row && row.contains(a)));
      const to = links[Math.max(0, Math.min(links.length - 1, i + (e.key === "j" ? 1 : -1)))];
      if (to) to.focus();
    } else if (e.key === "x") {
      const row = document.activeElement.closest("tr"); const box = row && $("input[type=checkbox]", row);
      if (box) box.click();
    }
  });

  /* Data age and refresh. The age is that of the data; the timer counts from the last attempt, so that old data never
     cause a storm. Paused while the page is hidden, a dialog is open, rows are picked or somebody types. */
  const age = $("[data-age]");
  let since = age ? Date.now() - 1000 * Number(age.dataset.age) : 0;
  let tried = Date.now();
  const busy = () => document.hidden || $("dialog[open]") || $("input[data-pick]:checked") || typing(document.activeElement);
  const every = $("[data-every]");
  if (every && store.get("every")) every.value = store.get("every");
  if (every) every.addEventListener("change", () => store.set("every", every.value));
  function refresh() {
    tried = Date.now();
    if (window.htmx && $("[hx-trigger~='refresh']")) { htmx.trigger(document.body, "refresh"); } else location.reload();
  }
  /* The data are as old as the last answer, not as the last attempt: a server that is away must not look fresh. */
  document.addEventListener("htmx:after:swap", (e) => { if (age && !e.target.closest?.("#palette")) { since = Date.now(); paint(); } });
  /* An answer that is not the page leaves what is there: to the login when the session has ended, else a word, once. */
  let lost = false;
  const lose = () => { if (!lost) toast({ title: words.failed, kind: "fail" }); lost = true; };
  document.addEventListener("htmx:before:response", (e) => {
    const raw = e.detail.ctx.response.raw;
    if (raw.redirected && new URL(raw.url).pathname.endsWith("/login/")) { e.preventDefault(); location.reload(); }
    else if (raw.status >= 400) { e.preventDefault(); lose(); }
    else lost = false;
  });
  document.addEventListener("htmx:error", lose);
  /* New rows for old ones: who stands on a row stays there, and what is picked stays picked. */
  let stood = "";
  let held = [];
  document.addEventListener("htmx:before:swap", () => {
    const here = document.activeElement;
    stood = here && here.closest("#rows") ? here.getAttribute("href") || here.value || "" : "";
    held = $$("#rows input[data-pick]:checked").map((c) => c.value);
  });
  document.addEventListener("htmx:after:swap", (e) => {
    if (e.target.closest?.("#palette")) return;
    if ($("table.dt") && $("#pager") && !$("#rows")) { location.reload(); return; } // the last row is gone: the page says so better
    $$("#rows input[data-pick]").forEach((c) => { c.checked = held.includes(c.value); });
    if (held.length) $$("[data-bulk]").forEach(bulk);
    const there = stood && $$("#rows a[href], #rows input").find((el) => (el.getAttribute("href") || el.value) === stood);
    if (there) there.focus();
  });
  function paint() {
    if (!age) return;
    const s = Math.max(0, Math.round((Date.now() - since) / 1000));
    age.textContent = age.dataset.text.replace("{n}", s < 120 ? `${s} s` : `${Math.floor(s / 60)} min`);
    age.parentElement.toggleAttribute("data-stale", s > 60);
    const n = every ? Number(every.value) : 0;
    if (n && Date.now() - tried >= 1000 * n && !busy()) refresh();
  }
  if (age && !root.hasAttribute("data-frozen")) setInterval(paint, 1000);

  /* countdowns (leases, undo windows): seconds left in data-left */
  const ends = new WeakMap(); // a refresh brings new elements with a new number
  if (!root.hasAttribute("data-frozen")) setInterval(() => $$("[data-left]").forEach((el) => {
    if (!ends.has(el)) ends.set(el, Date.now() + 1000 * Number(el.dataset.left));
    const s = Math.max(0, Math.round((ends.get(el) - Date.now()) / 1000));
    el.textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  }), 1000);

  /* bulk bar: rows picked, or the whole frozen filter */
  function bulk(box) {
    const picks = $$("input[data-pick]", box); const n = picks.filter((c) => c.checked).length;
    const bar = $(".bulkbar", box);
    if (!bar) return;
    bar.hidden = n === 0;
    $$("[data-picked]", bar).forEach((el) => { el.textContent = fmt.format(n); });
    const all = $("[data-matching]", box); if (all) all.value = ""; // somebody who changes the selection means these rows
    $$("[data-act=matching]", bar).forEach((el) => el.setAttribute("aria-pressed", "false"));
    picks.forEach((c) => c.closest("tr").classList.toggle("picked", c.checked));
  }
  $$("[data-bulk]").forEach((box) => {
    box.addEventListener("change", (e) => {
      if (e.target.matches("[data-pick-all]")) $$("input[data-pick]", box).forEach((c) => { c.checked = e.target.checked; });
      if (e.target.matches("[data-pick], [data-pick-all]")) bulk(box);
    });
  });

  /* a dangerous button stays off until the name is typed and a reason given */
  $$("[data-confirm-name]").forEach((form) => {
    const name = $("[data-name]", form); const why = $("[data-reason]", form); const go = $("[data-go-button]", form);
    const check = () => {
      const ok = name.value === form.dataset.confirmName && (!why || why.value.trim().length > 0);
      go.setAttribute("aria-disabled", String(!ok));
      if (ok) go.removeAttribute("data-why"); else go.dataset.why = form.dataset.whyOff;
    };
    form.addEventListener("input", check); check();
  });

  /* rows of a formset: added from its template, counted in Django's management form */
  $$("[data-formset]").forEach((box) => {
    const total = $(`input[name="${box.dataset.formset}-TOTAL_FORMS"]`, box);
    box.addEventListener("click", (e) => {
      if (e.target.closest("[data-add-row]")) {
        const row = $("template", box).content.firstElementChild.cloneNode(true);
        for (const el of [row, ...$$("*", row)]) for (const a of [...el.attributes]) if (a.value.includes("__prefix__")) el.setAttribute(a.name, a.value.replaceAll("__prefix__", total.value));
        $("[data-rows]", box).append(row);
        total.value = Number(total.value) + 1;
        $("select, input", row).focus();
      }
      const drop = e.target.closest("[data-drop-row]");
      if (drop) { const row = drop.closest("[data-form-row]"); $("input[name$='-DELETE']", row).value = "on"; row.hidden = true; }
    });
  });

  /* What scrolls can be scrolled by the keyboard; Django's filter of a choice says what its picture means. */
  const reach = () => $$("main.content, .tablewrap.scroll, .drawer-body, .results").forEach((el) => {
    const scrolls = el.scrollHeight > el.clientHeight + 1 || el.scrollWidth > el.clientWidth + 1;
    if (scrolls && !$("a[href], button, input:not([type=hidden]), select, textarea", el)) el.tabIndex = 0;
  });
  addEventListener("load", () => { reach(); $$(".search-label-icon[aria-label]").forEach((el) => el.setAttribute("role", "img")); });

  /* toasts */
  const NS = "http://www.w3.org/2000/svg";
  function toast({ title, text = "", kind = "ok", href = "", link = "" }) {
    let box = $(".toasts");
    if (!box) { box = document.createElement("div"); box.className = "toasts"; box.setAttribute("role", "status"); document.body.append(box); }
    const el = document.createElement("div"); el.className = "toast " + kind;
    const svg = document.createElementNS(NS, "svg"); svg.setAttribute("class", "g g-" + ({ ok: "succeeded", fail: "failed", run: "processing" }[kind]));
    const use = document.createElementNS(NS, "use"); use.setAttribute("href", `${sprite}#s-${{ ok: "succeeded", fail: "failed", run: "processing" }[kind]}`); svg.append(use);
    const div = document.createElement("div"); div.textContent = title;
    if (text) { const s = document.createElement("small"); s.textContent = text; div.append(s); }
    el.append(svg, div);
    if (href) { const a = document.createElement("a"); a.href = href; a.textContent = link; el.append(a); }
    box.append(el);
    if (kind !== "fail") setTimeout(() => el.remove(), 6000);
  }
  window.mq = { toast, act };
})();
