// What became of a memory: its versions, each as a difference to the one before, and all that happened.

import { h } from "../dom.js";
import { ago, difference, when } from "../text.js";

/** The history of `memory`; `restore` is called with the number of a version. */
export function history(memory, past, restore) {
  return h("section", { class: "history", "aria-label": "History" },
    h("h3", {}, "History"),
    h("ol", { class: "versions" }, past.data.map((version, at) => one(memory, version, past.data[at + 1], restore))),
    h("details", {}, h("summary", {}, `All that happened (${past.events.length})`),
      h("ul", { class: "events" }, past.events.toReversed().map(happened))));
}

function one(memory, version, before, restore) {
  const isNewest = version.version === memory.version;
  const parts = before ? difference(before.text, version.text) : [["same", version.text]];
  const title = before && before.title !== version.title
    ? h("p", { class: "meta" }, "title: ", differences([["gone", before.title], ["new", version.title]])) : null;
  return h("li", { "data-version": version.version },
    h("p", { class: "meta" }, h("strong", {}, `Version ${version.version}`),
      version.version === memory.answers && h("span", { class: "tag" }, "answers"),
      h("span", {}, version.adapter ? "with adapter" : "as text"),
      version.who && h("span", {}, `by ${version.who}`),
      h("time", { title: when(version.created_at) }, ago(version.created_at)),
      !isNewest && h("button", { type: "button", class: "small", onclick: () => restore(version.version) },
        "Restore")),
    title,
    h("p", { class: "said small" }, differences(parts)));
}

/** Parts of a difference, as elements. */
export function differences(parts) {
  const tags = { gone: "del", new: "ins", same: "span" };
  return parts.map(([kind, text]) => h(tags[kind], {}, text));
}

function happened(event) {
  return h("li", {}, h("strong", {}, event.kind), ` version ${event.version}`, event.who && ` by ${event.who}`, " ",
    h("time", { title: when(event.at) }, ago(event.at)));
}
