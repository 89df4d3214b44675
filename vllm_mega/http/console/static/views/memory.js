// One memory: its text, what belongs to it, and all that can be done with it.

import { memories } from "../api.js";
import { attempt, badge, confirm, empty, fill, h, later, problem, toast } from "../dom.js";
import { ago, when } from "../text.js";
import { editor } from "./editing.js";
import { history } from "./history.js";
import { link } from "./naming.js";

const TOO_LATE = "Somebody changed this memory meanwhile, so nothing was done. This is how it is now.";
const FORGETTING = "Its text, all its versions and its adapter are erased. An event that says so stays, without "
  + "content. This cannot be undone.";
const KEYS = [["/", "search"], ["↓ ↑", "move"], ["Enter", "open"], ["Esc", "back"], ["n", "new"]];

/**
 * The pane of the memory that is open.
 * @param given filterBy: called with a tag that was chosen.
 */
export function makeDetail({ filterBy }) {
  const root = h("article", { class: "detail", "aria-label": "The open memory" });
  const opened = { id: "", isNew: false, isEditing: false, notice: null };
  let loading = new AbortController();

  async function load(id) {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    try {
      const memory = await memories.get(id, {}, signal);
      const past = await memories.history(id, signal);
      if (opened.isEditing) return;
      draw(memory, past);
    } catch (error) {
      if (error.name === "AbortError") return;
      root.replaceChildren(toList(), error.status === 404 ? gone(id) : problem(error));
    }
  }

  function draw(memory, past) {
    const refusal = h("div", { class: "refusal" }, opened.notice && problem(opened.notice));
    const act = (todo) => attempt(root, refusal, () => inTime(todo));
    const heading = h("h2", { tabindex: -1 }, memory.title || memory.id);
    const held = root.contains(document.activeElement) ? document.activeElement.textContent : null;
    const isUnfolded = root.querySelector(".history details")?.open ?? false;
    root.replaceChildren(
      toList(), heading, states(memory), refusal, buttons(memory, act),
      h("p", { class: "said" }, memory.text),
      facts(memory, filterBy),
      history(memory, past, (version) => act(() => bringBack(memory, version))));
    root.querySelector(".history details").open = isUnfolded && !opened.isNew;
    if (opened.isNew) heading.focus();
    else if (held !== null) (named(held) ?? heading).focus();
    opened.isNew = false;
  }

  /** The same thing as before, where the focus was, if it is still there. */
  function named(text) {
    return [...root.querySelectorAll("button, a, summary")].find((one) => one.textContent === text);
  }

  /** Do `todo`; where somebody was quicker, show what he has made of the memory instead. */
  async function inTime(todo) {
    opened.notice = null;
    try {
      await todo();
    } catch (error) {
      if (error.status !== 412) throw error;
      opened.notice = { message: TOO_LATE };
      await load(opened.id);
    }
  }

  function buttons(memory, act) {
    return h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => edit(memory) }, "Edit"),
      h("button", { type: "button", onclick: () => act(() => pin(memory)) }, memory.pinned ? "Unpin" : "Pin"),
      h("button", { type: "button", onclick: () => act(() => retire(memory)) }, memory.retired ? "Unretire" : "Retire"),
      h("button", { type: "button", class: "danger", onclick: () => act(() => forget(memory)) }, "Forget"));
  }

  function edit(memory) {
    opened.isEditing = true;
    const end = () => { Object.assign(opened, { isEditing: false, isNew: true }); load(memory.id); };
    root.replaceChildren(toList(), editor(memory, end));
    root.querySelector("textarea").focus();
  }

  async function pin(memory) {
    await memories.change(memory.id, { pinned: !memory.pinned }, memory.etag);
    await load(memory.id);
    toast(memory.pinned ? "Unpinned." : "Pinned.");
  }

  async function retire(memory) {
    await memories.change(memory.id, { retired: !memory.retired }, memory.etag);
    await load(memory.id);
    toast(memory.retired ? "It answers again." : "It is kept, and answers no more.");
  }

  async function bringBack(memory, version) {
    await memories.restore(memory.id, version, memory.etag);
    await load(memory.id);
    toast(`Version ${version} is the newest again.`);
  }

  async function forget(memory) {
    if (!await confirm(`Forget “${memory.title || memory.id}”?`, FORGETTING, "Forget")) return;
    loading.abort();
    await memories.forget(memory.id, memory.etag);
    opened.id = "";
    toast("Forgotten.");
    location.hash = "#/memories";
  }

  const again = later(250, () => {
    const isBusy = opened.isEditing || root.ariaBusy === "true";  // what is being done ends with reading it
    if (opened.id && !isBusy) load(opened.id);
  });

  function vanish() {
    const { id } = opened;
    loading.abort();
    opened.id = "";
    root.replaceChildren(toList(), gone(id));
  }

  return {
    root,
    show(id) {
      if (id === opened.id && id) return;
      loading.abort();
      Object.assign(opened, { id, isNew: true, isEditing: false, notice: null });
      if (id) load(id);
      else fill(root, empty("Choose a memory to see what it says and what became of it.", keys()));
    },
    leave() { loading.abort(); Object.assign(opened, { id: "", isEditing: false }); },
    changed(event) {
      if (event !== null && event.id !== opened.id) return;
      if (["forgotten", "expired"].includes(event?.kind) && !opened.isEditing) vanish();
      else again();
    },
  };
}

const toList = () => h("a", { class: "back", href: "#/memories" }, "← All memories");

const keys = () => h("p", { class: "keys" }, KEYS.map(([key, does]) => h("span", {}, h("kbd", {}, key), ` ${does}`)));

function gone(id) {
  const all = h("a", { class: "button", href: "#/memories" }, "Show all memories");
  return empty(`There is no memory ${id} in this namespace.`, all);
}

function states(memory) {
  return h("p", { class: "meta" }, badge(memory.state),
    memory.pinned && h("span", { class: "pin" }, "pinned"),
    memory.retired && h("span", { class: "tag" }, "retired"),
    h("span", {}, `version ${memory.version}`),
    h("span", {}, answering(memory)),
    h("time", { title: when(memory.updated_at) }, `changed ${ago(memory.updated_at)}`));
}

function answering(memory) {
  if (memory.retired) return "does not answer";
  if (memory.adapter === null) return "answers as text";
  if (memory.answers !== memory.version) return `version ${memory.answers} answers meanwhile`;
  return "answers from its adapter";
}

function origin({ file, start, end }) {
  return start === null ? file : `${file}, characters ${start} to ${end}`;
}

function facts(memory, filterBy) {
  const tag = (name) => h("button", { type: "button", class: "tag", onclick: () => filterBy(name) }, name);
  const rows = [
    ["Tags", memory.tags.map(tag)],
    ["Links", memory.links.map((id) => link({ id }))],
    ["Expires", memory.expires_at ? [when(Date.parse(memory.expires_at) / 1000)] : []],
    ["Source", memory.source ? [origin(memory.source)] : []],
    ["Last training failed", memory.reason ? [memory.reason] : []],
    ["Other words", memory.paraphrases.map((text) => h("p", {}, text))],
    ["Questions", memory.qa.map((one) => h("p", {}, `${one.question} — ${one.answer}`))],
    ["Adapter", memory.adapter ? [h("code", {}, memory.adapter.slice(0, 16))] : []],
    ["Id", [h("code", {}, memory.id)]],
  ];
  const told = rows.filter(([, what]) => what.length);
  return h("dl", { class: "facts" }, told.flatMap(([name, what]) => [h("dt", {}, name), h("dd", {}, what)]));
}
