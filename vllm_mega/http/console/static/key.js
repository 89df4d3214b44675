// The key of the session: asked for when the server wants one, and forgotten on demand.

import { field, h } from "./dom.js";
import { session } from "./session.js";

const KEPT = "Sent to this server alone, and kept until this tab is closed. Whoever runs the server makes keys with: "
  + "vllm-mega keys add";
let open = null;

/** Ask for the key; `done` is called when there is another one, or none. */
export function askKey(done) {
  if (open) return;
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false" });
  const end = (key) => {
    open.close();
    open.remove();
    open = null;
    if (key === undefined) return;
    session.key = key;
    done();
  };
  const form = h("form", {},
    h("h2", { id: "asked" }, session.key ? "Another key" : "Your key"),
    field("Key", input, KEPT),
    h("div", { class: "actions" },
      session.key && h("button", { type: "button", class: "quiet", onclick: () => end("") }, "Forget the key"),
      h("button", { type: "button", onclick: () => end() }, "Cancel"),
      h("button", { class: "primary" }, "Use this key")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim()) end(input.value.trim());
  });
  open = h("dialog", { "aria-labelledby": "asked", oncancel: () => end() }, form);
  document.body.append(open);
  open.showModal();
  input.focus();
}
