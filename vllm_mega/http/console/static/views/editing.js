// A memory that is being changed. Who was slower hears of it, and decides.

import { memories } from "../api.js";
import { attempt, field, h, problem, toast } from "../dom.js";
import { clock, difference, moment, words } from "../text.js";
import { differences } from "./history.js";

/** A form with all that can be changed; `end` is called when it was saved or given up. */
export function editor(memory, end) {
  const inputs = {
    text: h("textarea", { rows: 8, required: true, value: memory.text }),
    title: h("input", { value: memory.title }),
    tags: h("input", { value: memory.tags.join(", "), spellcheck: "false" }),
    links: h("input", { value: memory.links.join(", "), spellcheck: "false" }),
    expires: h("input", { type: "datetime-local", value: clock(memory.expires_at) }),
  };
  const refusal = h("div", { class: "refusal" });
  const made = h("form", { class: "editor", novalidate: true, "aria-label": "Edit the memory" },
    h("h2", {}, `Edit ${memory.title || memory.id}`),
    field("Text", inputs.text, "A new text is a new version; the one that answers goes on until it has its adapter."),
    field("Title", inputs.title),
    field("Tags", inputs.tags, "With commas between them"),
    field("Links", inputs.links, "Ids of memories that come to mind with this one, with commas between them"),
    field("Expires", inputs.expires, "From then on there is no such memory; empty: it stays"),
    refusal,
    h("div", { class: "actions" },
      h("button", { type: "button", onclick: end }, "Cancel"),
      h("button", { class: "primary" }, "Save")));

  async function save(etag) {
    const changes = changed(memory, inputs);
    if (Object.keys(changes).length) {
      await memories.change(memory.id, changes, etag);
      toast("Saved.");
    }
    end();
  }

  const trying = (act) => attempt(made, refusal, async () => {
    try {
      await act();
    } catch (error) {
      if (error.status !== 412) throw error;
      refusal.replaceChildren(await conflict());
    }
  });

  /** What somebody else has made of it, and the two ways on. */
  async function conflict() {
    const theirs = await memories.get(memory.id);
    const parts = difference(theirs.text, inputs.text.value);
    const message = "Somebody changed this memory while you wrote: nothing was saved. From theirs to yours:";
    return problem({ message },
      h("p", { class: "said" }, differences(parts)),
      h("div", { class: "actions" },
        h("button", { type: "button", onclick: end }, "Reload theirs"),
        h("button", { type: "button", onclick: () => trying(() => save(theirs.etag)) }, "Save mine over it")));
  }

  made.addEventListener("submit", (event) => {
    event.preventDefault();
    trying(() => save(memory.etag));
  });
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    end();
  });
  return made;
}

/** What differs; what is left out stays as it is, whoever changed it. */
function changed(memory, inputs) {
  const now = {
    text: inputs.text.value, title: inputs.title.value.trim(),
    tags: words(inputs.tags.value), links: words(inputs.links.value),
    expires_at: inputs.expires.value === clock(memory.expires_at) ? memory.expires_at : moment(inputs.expires.value),
  };
  const differs = ([name, value]) => JSON.stringify(value) !== JSON.stringify(memory[name]);
  return Object.fromEntries(Object.entries(now).filter(differs));
}
