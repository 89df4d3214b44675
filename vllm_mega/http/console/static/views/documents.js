// A document on its way: what would become of it is shown, and done when it is wished.

import { memories } from "../api.js";
import { attempt, h, problem, remark, toast } from "../dom.js";
import { bytes, count } from "../text.js";

const MOST_BYTES = 1.5 * 1024 * 1024;  // in base64, the 2 MiB that a body may have
const SAID = { add: "added", update: "changed", link: "linked anew", keep: "kept", forget: "forgotten" };

/** A row for a file, that reads it and shows what would be done. */
export function document_(file, tags) {
  const inside = h("div", { class: "inside" }, remark("Dividing…"));
  const made = h("li", {}, h("h3", {}, file.name, " ", h("small", {}, bytes(file.size))), inside);
  const asked = (content, dry) => memories.document({
    source: file.name, content, dry_run: dry, ...(tags.length ? { tags } : {}),
  });
  attempt(made, inside, async () => {
    if (file.size > MOST_BYTES) {
      throw new Error(`${bytes(file.size)} are more than the ${bytes(MOST_BYTES)} of a request: divide it first.`);
    }
    const content = await base64(file);
    const plan = await asked(content, true);
    const refusal = h("div", { class: "refusal" });
    const act = () => attempt(made, refusal, async () => {
      const done = await asked(content, false);
      inside.replaceChildren(h("p", { class: "done" }, `Done: ${summary(done.data)}. `,
        h("a", { href: "#/memories" }, "Show memories")));
      toast(`${file.name} is remembered.`);
    });
    inside.replaceChildren(...preview(plan.data), refusal, ...buttons(plan.data, act, () => made.remove()));
  });
  return made;
}

function preview(steps) {
  if (!steps.length) return [problem({ message: "Nothing in it can be remembered." })];
  return [h("p", {}, `Would be: ${summary(steps)}.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Parts" }, h("table", {},
      h("thead", {}, h("tr", {},
        h("td", {}), h("th", { scope: "col" }, "Part"), h("th", { scope: "col", class: "number" }, "Tokens"))),
      h("tbody", {}, steps.map((step) => h("tr", {},
        h("td", {}, h("span", { class: "badge", "data-change": step.change }, SAID[step.change])),
        h("td", {}, step.title || step.id), h("td", { class: "number" }, step.tokens || ""))))))];
}

function buttons(steps, act, discard) {
  const changes = steps.filter((step) => step.change !== "keep").length;
  const label = changes ? `Do it: ${count(changes, "change")}` : "Nothing to do";
  return [h("div", { class: "actions" },
    h("button", { type: "button", onclick: discard }, "Put away"),
    h("button", { type: "button", class: "primary", disabled: !changes, onclick: act }, label))];
}

/** "3 added, 1 kept". */
function summary(steps) {
  const number = (change) => steps.filter((step) => step.change === change).length;
  const counts = Object.entries(SAID).map(([change, said]) => [number(change), said]);
  return counts.filter(([found]) => found).map(([found, said]) => `${found} ${said}`).join(", ");
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read: see whether it is still there."));
    reader.readAsDataURL(file);
  });
}
