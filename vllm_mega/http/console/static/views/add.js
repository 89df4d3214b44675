// What is told to the server: a text, or documents that are divided into memories.

import { memories } from "../api.js";
import { field, form, h, toast } from "../dom.js";
import { moment, words } from "../text.js";
import { document_ } from "./documents.js";

export const title = "Add";

export function make() {
  const root = h("section", { class: "add" }, h("h1", {}, "Add"), one(), many());
  return { root, enter() { root.querySelector("textarea").focus(); } };
}

function one() {
  const inputs = {
    text: h("textarea", { rows: 6, required: true, placeholder: "The ferry to Sill is pulled by four oxen." }),
    title: h("input", {}),
    tags: h("input", { spellcheck: "false" }),
    links: h("input", { spellcheck: "false" }),
    expires: h("input", { type: "datetime-local" }),
  };
  const stored = h("div", { class: "refusal" });
  const made = form({ "aria-labelledby": "one" }, async () => {
    const told = await memories.add({
      text: inputs.text.value, title: inputs.title.value.trim(),
      tags: words(inputs.tags.value), links: words(inputs.links.value), expires_at: moment(inputs.expires.value),
    });
    made.reset();
    stored.replaceChildren(h("p", { class: "done" }, "Stored as ",
      h("a", { href: `#/memories/${encodeURIComponent(told.id)}` }, told.id),
      told.state === "ready" ? "." : ": it answers as text at once, and from its adapter when there is one."));
    toast("Stored.");
    inputs.text.focus();
  },
  h("h2", { id: "one" }, "A memory"),
  field("Text", inputs.text, "What is to be remembered, word for word; one matter a memory."),
  field("Title", inputs.title),
  field("Tags", inputs.tags, "With commas between them"),
  field("Links", inputs.links, "Ids of memories that come to mind with this one"),
  field("Expires", inputs.expires, "From then on there is no such memory; empty: it stays"),
  h("div", { class: "actions" }, h("button", { class: "primary" }, "Remember")));
  return h("div", { class: "card" }, made, stored);
}

function many() {
  const tags = h("input", { spellcheck: "false" });
  const files = h("ul", { class: "documents", "aria-label": "Documents" });
  const chosen = h("input", { type: "file", multiple: true, class: "unseen", id: "files",
    onchange: () => { take(chosen.files); chosen.value = ""; } });
  const take = (given) => {
    for (const file of given) files.prepend(document_(file, words(tags.value)));
  };
  const zone = h("div", { class: "drop" }, h("p", {}, "Drop documents here, or"), chosen,
    h("label", { for: "files", class: "button" }, "choose files"),
    h("small", {}, ".md, .txt, .html, .docx, .pdf, at most 1.5 MiB each. You see what would be done before it is."));
  const over = (is) => (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    zone.toggleAttribute("data-over", is);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => { over(false)(event); take(event.dataTransfer.files); });
  const tagged = field("Tags of all their memories", tags, "With commas between them; without any, they keep theirs");
  return h("div", { class: "card" }, h("h2", {}, "Documents"), zone, tagged, files);
}
