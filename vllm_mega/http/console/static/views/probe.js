// What the gate would do with a text: scores as bars, the threshold as a line through all of them.

import { memories } from "../api.js";
import { bar } from "../bars.js";
import { badge, empty, field, h, later, problem, remark } from "../dom.js";
import { count, hundredths, words } from "../text.js";
import { address } from "./naming.js";

export const title = "Probe";
const SHOWN = 20;
const NAMES = { threshold: "Threshold", top_k: "Most memories", beta: "Sharpness", link_share: "Share of links" };

export function make() {
  const placeholder = "A question, or anything";
  const query = h("input", { type: "search", placeholder, "aria-label": "Text to probe the gate with" });
  const numbers = {
    threshold: number(0, 1, 0.01), top_k: number(1, 64, 1), beta: number(0, 1000, 1), link_share: number(0, 1, 0.05),
  };
  const tags = h("input", { spellcheck: "false" });
  const place = h("div", { class: "found", "aria-live": "polite" }, start());
  const settings = h("details", {}, h("summary", {}, "Other settings than the server's"),
    h("div", { class: "numbers" },
      Object.entries(numbers).map(([name, input]) => field(NAMES[name], input)), field("Tags", tags)));
  const root = h("section", { class: "probe" }, h("h1", {}, "Probe"),
    remark("What the gate would do with a text. Nothing is generated."), query, settings, place);
  let asking = new AbortController();

  async function ask() {
    asking.abort();
    asking = new AbortController();
    const text = query.value.trim();
    if (!text) {
      place.replaceChildren(start());
      return;
    }
    const body = { query: text, tags: words(tags.value), limit: SHOWN, explain: true };
    for (const [name, input] of Object.entries(numbers)) if (input.value !== "") body[name] = input.valueAsNumber;
    try {
      const found = await memories.search(body, asking.signal);
      for (const [name, input] of Object.entries(numbers)) input.placeholder = String(found.explain[name]);
      place.replaceChildren(...answer(found));
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(problem(error));
    }
  }

  const again = later(200, ask);
  for (const input of [query, tags, ...Object.values(numbers)]) input.addEventListener("input", again);
  return { root, enter() { query.focus(); }, leave() { asking.abort(); }, changed: again };
}

const start = () => empty("Type a question: you see how near every memory is, and which would answer.");

function number(min, max, step) {
  return h("input", { type: "number", min, max, step });
}

function answer({ data, explain }) {
  if (!data.length) {
    const add = h("a", { class: "button primary", href: "#/add" }, "Add one");
    return [empty("There is no memory to compare with.", add)];
  }
  const linked = new Set(explain.mixture.filter((one) => one.linked).map((one) => one.id));
  return [
    h("p", { class: "lead" }, verdict(explain)),
    h("ul", { class: "bars probe-bars", "aria-label": "Scores" }, data.map((one) => row(one, explain, linked))),
    remark(`The line is the threshold, ${hundredths(explain.threshold)}. `
      + `At most ${count(explain.top_k, "memory", "memories")}, `
      + `sharpness ${explain.beta}, share of links ${explain.link_share}.`),
  ];
}

function verdict({ mixture, best_score: best, threshold }) {
  if (mixture.length) return `${count(mixture.length, "memory", "memories")} would answer.`;
  return `The base model would answer: the best score, ${hundredths(best)}, is below ${hundredths(threshold)}.`;
}

function row(one, explain, linked) {
  const name = one.title || one.text;
  const weight = one.weight > 0 && `weight ${hundredths(one.weight)}`;
  const near = `score ${hundredths(one.score)}, threshold ${hundredths(explain.threshold)}`;
  return bar({
    label: h("a", { href: address(one.id), title: one.text }, name),
    value: one.score, threshold: explain.threshold, strong: one.weight > 0,
    notes: [
      weight && h("span", {}, weight), linked.has(one.id) && h("span", {}, "for the sake of a link"),
      one.state !== "ready" && badge(one.state),
    ],
    told: `${name}: ${near}${weight ? `, ${weight}` : ""}`,
  });
}
