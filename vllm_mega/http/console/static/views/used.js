// The field `mega` of an answer, as people read it: which memories, how much of each, and why.

import { memories } from "../api.js";
import { bar } from "../bars.js";
import { badge, h, problem, remark } from "../dom.js";
import { count, hundredths } from "../text.js";
import { link } from "./naming.js";

/** Elements for the field, and for the tokens of the answer. */
export function used(mega, usage) {
  const tokens = usage ? `, ${count(usage.total_tokens, "token")}` : "";
  const shares = mega.memories.map((one) => share(one));
  return [
    h("h3", {}, shares.length ? `From ${count(shares.length, "memory", "memories")}` : "The base model alone"),
    shares.length ? h("ul", { class: "bars" }, shares) : h("p", {}, unused(mega)),
    mega.recalled && h("details", { open: true }, h("summary", {}, "What it read"), said(mega.recalled)),
    !mega.recalled && shares.length > 0 && texts(mega.memories),
    mega.explain?.runners_up?.length > 0 && others(mega.explain),
    remark(`mode ${mega.mode}, namespace ${mega.namespace}${tokens}`),
  ];
}

function share(one) {
  const score = one.score === null ? "" : `, score ${hundredths(one.score)}`;
  return bar({
    label: link(one), value: one.weight, strong: true,
    notes: [
      h("span", {}, `weight${score}`), h("span", {}, `version ${one.version} as ${one.as}`),
      one.state !== "ready" && badge(one.state),
    ],
    told: `${one.title || one.id}: weight ${hundredths(one.weight)}${score}`,
  });
}

function unused(mega) {
  if (mega.mode === "off") return "Memory was off.";
  if (mega.best_score === null) return "There was no memory to compare with.";
  const least = mega.explain ? ` of the ${hundredths(mega.explain.threshold)} that it takes` : "";
  return `No memory was near enough: the best had ${hundredths(mega.best_score)}${least}.`;
}

/** Adapters are not read; what they were made of is looked up when it is wished. */
function texts(all) {
  const place = h("div", {});
  const show = async (event) => {
    if (!event.target.open || place.childElementCount) return;
    place.replaceChildren(...await Promise.all(all.map(looked)));
  };
  return h("details", { ontoggle: show }, h("summary", {}, "What they say"), place);
}

async function looked({ id, version }) {
  try {
    return said((await memories.get(id, { version })).text);
  } catch (error) {
    return problem(error);
  }
}

const said = (text) => h("p", { class: "said small" }, text);

function others(explain) {
  const rows = explain.runners_up.map((one) => bar({
    label: link(one), value: one.score, threshold: explain.threshold, notes: [h("span", {}, `not used: ${one.why}`)],
    told: `${one.title || one.id}: score ${hundredths(one.score)}, threshold ${hundredths(explain.threshold)}`,
  }));
  return h("details", {}, h("summary", {}, "Runners-up"), h("ul", { class: "bars" }, rows));
}
