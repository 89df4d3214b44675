// One memory: its text, what belongs to it, and all that can be done with it.

import { memories } from "../api.js";
import { attempt, badge, confirm, empty, h, later, problem, toast } from "../dom.js";
import { ago, when } from "../text.js";
import { editor } from "./editing.js";
import { history } from "./history.js";

/**
 * The pane of the memory that is open.
 * @param given filterBy: called with a tag that was chosen.
 */
export function makeDetail({ filterBy }) {
  const root = h("article", { class: "detail", "aria-label": "The open memory" });
  const opened = { id: "", etag: null, isEditing: false };
  let loading = new AbortController();

  async function load(id, isFirst) {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    try {
      const memory = await memories.get(id, {}, signal);
      const past = await memories.history(id, signal);
      if (opened.isEditing) return;
      draw(memory, past, isFirst);
    } catch (error) {
      if (error.name === "AbortError") return;
      root.replaceChildren(toList(), error.status === 404 ? gone(id) : problem(error));
    }
  }

  function draw(memory, past, isFirst) {
    opened.etag = memory.etag;
    const refusal = h("div", { class: "refusal" });
    const act = (todo) => attempt(root, refusal, todo).then(() => helped(refusal));
    const heading = h("h2", { tabindex: -1 }, memory.title || memory.id);
    root.replaceChildren(
      toList(), heading, states(memory), refusal, buttons(memory, act),
      h("p", { class: "said" }, memory.text),
      facts(memory, filterBy),
      history(memory, past, (version) => act(() => bringBack(memory, version))));
    if (isFirst && !document.activeElement?.closest(".filters, dialog")) heading.focus();
  }

  /** A change that came too late: the way on stands beside the refusal. */
  function helped(refusal) {
    const told = refusal.querySelector(".problem");
    told?.append(h("button", { type: "button", onclick: () => load(opened.id) }, "Reload"));
  }

  function buttons(memory, act) {
    return h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => edit(memory) }, "Edit"),
      h("button", { type: "button", onclick: () => act(() => pin(memory)) }, memory.pinned ? "Unpin" : "Pin"),
      h("button", { type: "button", class: "danger", onclick: () => act(() => forget(memory)) }, "Forget"));
  }

  function edit(memory) {
    opened.isEditing = true;
    const end = () => { opened.isEditing = false; load(memory.id, true); };
    root.replaceChildren(toList(), editor(memory, end));
    root.querySelector("textarea").focus();
  }

  async function pin(memory) {
    await memories.change(memory.id, { pinned: !memory.pinned }, memory.etag);
    await load(memory.id);
    toast(memory.pinned ? "Unpinned." : "Pinned.");
  }

  async function bringBack(memory, version) {
    await memories.restore(memory.id, version, memory.etag);
    await load(memory.id);
    toast(`Version ${version} is the newest again.`);
  }

  async function forget(memory) {
    const text = "Its text, all its versions and its adapter are erased. An event that says so stays, without content. This cannot be undone.";
    if (!await confirm(`Forget “${memory.title || memory.id}”?`, text, "Forget")) return;
    await memories.forget(memory.id, memory.etag);
    toast("Forgotten.");
    location.hash = "#/memories";
  }

  const again = later(250, () => {
    if (opened.id && !opened.isEditing) load(opened.id);
  });

  return {
    root,
    show(id) {
      if (id === opened.id && id) return;
      Object.assign(opened, { id, isEditing: false });
      if (id) load(id, true);
      else root.replaceChildren(empty("Choose a memory to see what it says and what became of it.",
        h("p", { class: "keys" }, h("kbd", {}, "/"), " search ", h("kbd", {}, "↓"), h("kbd", {}, "↑"), " move ", h("kbd", {}, "Enter"), " open ", h("kbd", {}, "Esc"), " back ", h("kbd", {}, "n"), " new")));
    },
    leave() { loading.abort(); Object.assign(opened, { id: "", isEditing: false }); },
    changed(event) { if (event === null || event.id === opened.id) again(); },
  };
}

const toList = () => h("a", { class: "back", href: "#/memories" }, "← All memories");

function gone(id) {
  return empty(`There is no memory ${id} in this namespace.`, h("a", { class: "button", href: "#/memories" }, "Show all memories"));
}

function states(memory) {
  return h("p", { class: "meta" }, badge(memory.state),
    memory.pinned && h("span", { class: "pin" }, "pinned"),
    h("span", {}, `version ${memory.version}`),
    h("span", {}, answering(memory)),
    h("time", { title: when(memory.updated_at) }, `changed ${ago(memory.updated_at)}`));
}

function answering(memory) {
  if (memory.adapter === null) return "answers as text";
  return memory.answers === memory.version ? "answers from its adapter" : `version ${memory.answers} answers meanwhile`;
}

function origin({ file, start, end }) {
  return start === null ? file : `${file}, characters ${start} to ${end}`;
}

function facts(memory, filterBy) {
  const link = (id) => h("a", { href: `#/memories/${encodeURIComponent(id)}` }, id);
  const rows = [
    ["Tags", memory.tags.map((tag) => h("button", { type: "button", class: "tag", title: "show all with this tag", onclick: () => filterBy(tag) }, tag))],
    ["Links", memory.links.flatMap((id) => [link(id), " "])],
    ["Source", memory.source ? [origin(memory.source)] : []],
    ["Last training failed", memory.reason ? [memory.reason] : []],
    ["Other words", memory.paraphrases.map((text) => h("p", {}, text))],
    ["Questions", memory.qa.map((one) => h("p", {}, `${one.question} — ${one.answer}`))],
    ["Adapter", memory.adapter ? [h("code", {}, memory.adapter.slice(0, 16))] : []],
    ["Id", [h("code", {}, memory.id)]],
  ];
  return h("dl", { class: "facts" }, rows.filter(([, what]) => what.length).flatMap(([name, what]) => [h("dt", {}, name), h("dd", {}, what)]));
}
