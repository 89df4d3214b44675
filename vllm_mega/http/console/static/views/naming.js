// Memories by name, where only their ids are told.

import { memories } from "../api.js";
import { h } from "../dom.js";
import { session } from "../session.js";

const known = new Map();

/** Where the page shows a memory. */
export function address(id) {
  return `#/memories/${encodeURIComponent(id)}`;
}

/** A link to a memory {id, title, version}; what has no title is known by its text. */
export function link({ id, title, version }) {
  const place = JSON.stringify([session.namespace, id, version]);
  const made = h("a", { href: address(id) }, title || known.get(place) || id);
  if (!title && !known.has(place)) name(made, id, version, place);
  return made;
}

async function name(made, id, version, place) {
  const full = await memories.get(id, { version }).catch(() => null);
  if (full === null) return;
  made.textContent = full.title || full.text;
  if (version) known.set(place, made.textContent);  // a version says the same for ever
}
