// Memories by name, where only their ids are told.

import { memories } from "../api.js";
import { h } from "../dom.js";
import { session } from "../session.js";

const LONGEST = 200;
const known = new Map();

/** Where the page shows a memory. */
export function address(id) {
  return `#/memories/${encodeURIComponent(id)}`;
}

/** What a memory {id, version, title, text} is called, as far as it is known now. */
export function nameNow(memory) {
  return memory.title || memory.text || known.get(place(memory)) || memory.id;
}

/** The same, looked up where it is not known. */
export async function nameOf(memory) {
  if (nameNow(memory) === memory.id) {
    const { id, version } = memory;
    const full = await memories.get(id, { version }).catch(() => null);
    const name = full && (full.title || full.text).slice(0, LONGEST);
    if (name && !version) return name;
    if (name) known.set(place(memory), name);  // a version says the same for ever
  }
  return nameNow(memory);
}

/** A link to a memory. */
export function link(memory) {
  const made = h("a", { href: address(memory.id) }, nameNow(memory));
  nameOf(memory).then((name) => { made.textContent = name; });
  return made;
}

function place({ id, version }) {
  return JSON.stringify([session.namespace, id, version]);
}
