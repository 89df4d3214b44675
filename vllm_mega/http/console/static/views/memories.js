// The list of memories, what is looked for in it, and beside it the one that is open.

import { memories } from "../api.js";
import { arrows, badge, current, empty, h, later, problem } from "../dom.js";
import { ago, hundredths, when } from "../text.js";
import { makeDetail } from "./memory.js";
import { address, nameNow, nameOf } from "./naming.js";

export const title = "Memories";
const PAGE = 50;
const MOST = 1000;
const MOST_FOUND = 100;
const STATES = ["pending", "training", "ready", "failed"];

export function make() {
  const list = { rows: [], cursor: null, opened: "" };
  const search = h("input", { type: "search", placeholder: "Search by meaning", "aria-label": "Search memories" });
  search.ariaKeyShortcuts = "/";
  const tag = h("input", { placeholder: "tag", "aria-label": "Only with this tag", size: 10, spellcheck: "false" });
  const state = h("select", { "aria-label": "Only in this state" },
    h("option", { value: "" }, "any state"), STATES.map((name) => h("option", { value: name }, name)));
  const rows = h("ul", { class: "rows", "aria-label": "Memories" });
  const below = h("div", { class: "below", role: "status" });
  const detail = makeDetail({ filterBy: (chosen) => { tag.value = chosen; search.value = ""; load(); } });
  const root = h("section", { class: "memories" },
    h("div", { class: "list" },
      h("h1", { class: "unseen" }, "Memories"),
      h("div", { class: "filters" }, h("div", { class: "searching" }, search, h("kbd", {}, "/")), tag, state),
      rows, below),
    detail.root);
  let loading = new AbortController();
  let isLeft = false;

  /** All rows that were shown, again, or those of the filters; `more`: one page on. */
  async function load(more = false) {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    try {
      const page = search.value.trim() ? await found(signal) : await listed(more, signal);
      list.rows = more ? [...list.rows, ...page.data] : page.data;
      list.cursor = page.next_cursor ?? null;
      draw();
      await preview(signal);
    } catch (error) {
      if (error.name !== "AbortError") below.replaceChildren(problem(error));
    }
  }

  function listed(more, signal) {
    const limit = more ? PAGE : Math.min(MOST, Math.max(PAGE, list.rows.length));
    const cursor = more ? list.cursor : null;
    return memories.list({ tag: tag.value.trim(), state: state.value, limit, cursor }, signal);
  }

  async function found(signal) {
    const asked = { query: search.value.trim(), tags: [tag.value.trim()].filter(Boolean), limit: MOST_FOUND };
    const { data } = await memories.search(asked, signal);
    return { data: data.filter((one) => !state.value || one.state === state.value) };
  }

  function draw() {
    const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    rows.replaceChildren(...list.rows.map((one) => row(one, list.opened)));
    if (focused !== null) rowOf(focused)?.focus();
    below.replaceChildren(...(list.rows.length ? atEnd() : [nothing()]));
  }

  function atEnd() {
    return list.cursor ? [h("button", { type: "button", onclick: () => load(true) }, "Show more")] : [];
  }

  function nothing() {
    if (!search.value.trim() && !tag.value.trim() && !state.value) {
      return empty("Nothing is remembered in this namespace yet.",
        h("a", { class: "button primary", href: "#/add" }, "Add the first memory"));
    }
    const clear = () => { [search.value, tag.value, state.value] = ["", "", ""]; load(); search.focus(); };
    return empty("No memory is like that.", h("button", { type: "button", onclick: clear }, "Show all memories"));
  }

  /** Lists have no texts; what has no title is known by its beginning. */
  async function preview(signal) {
    for (const one of list.rows) {
      const name = await nameOf(one);
      if (signal.aborted) return;
      rowOf(one.id)?.querySelector(".name").replaceChildren(name);
    }
  }

  const again = later(250, () => { if (!isLeft) load(); });
  const narrow = later(200, () => { list.rows = []; load(); });
  for (const input of [search, tag, state]) input.addEventListener("input", narrow);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    rows.querySelector("a")?.focus();
  });
  root.addEventListener("keydown", (event) => {
    const isTaken = event.defaultPrevented || event.target.closest("input");
    if (event.key === "Escape" && list.opened && !isTaken) location.hash = "#/memories";
  });
  arrows(rows, "a");

  const rowOf = (id) => [...rows.querySelectorAll("a")].find((link) => link.dataset.id === id);

  return {
    root,
    enter(id) {
      const isFirst = list.rows.length === 0 || isLeft;
      const before = list.opened;
      isLeft = false;
      list.opened = id;
      root.toggleAttribute("data-open", Boolean(id));
      for (const link of rows.querySelectorAll("a")) current(link, link.dataset.id === id);
      detail.show(id);
      if (!id && before) rowOf(before)?.focus();
      if (isFirst) load();
    },
    leave() { isLeft = true; loading.abort(); detail.leave(); },
    changed(event) { again(); detail.changed(event); },
    search() { search.focus(); search.select(); },
  };
}

function row(one, opened) {
  const marks = { "data-id": one.id, "aria-current": one.id === opened };
  return h("li", {}, h("a", { href: address(one.id), ...marks },
    h("span", { class: "name" }, nameNow(one)),
    h("span", { class: "meta" },
      badge(one.state), one.pinned && h("span", { class: "pin", title: "pinned" }, "pinned"),
      one.retired && h("span", { class: "tag" }, "retired"),
      one.tags.map((name) => h("span", { class: "tag" }, name)),
      one.updated_at && h("time", { title: when(one.updated_at) }, ago(one.updated_at)),
      "score" in one && h("span", { class: "score", title: "cosine with what was asked" }, hundredths(one.score)))));
}
