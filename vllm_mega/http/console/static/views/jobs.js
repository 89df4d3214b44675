// What waits for a trainer, what one has, and what was given up.

import { memories } from "../api.js";
import { arrows, badge, empty, fill, h, later, problem, remark } from "../dom.js";
import { ago, count, when } from "../text.js";
import { link } from "./naming.js";

export const title = "Jobs";
const SHOWN = 50;
const PAUSE = 2000;
const STATES = ["waiting", "training", "failed"];
const COLUMNS = ["State", "Memory", "Version", "Tries", "Steps"];

export function make() {
  const state = h("select", { "aria-label": "Only in this state" },
    h("option", { value: "" }, "any state"), STATES.map((name) => h("option", { value: name }, name)));
  const place = h("div", { class: "found", "aria-live": "polite" });
  const root = h("section", { class: "jobs" }, h("h1", {}, "Jobs"),
    remark("Memories whose newest version has no adapter yet. They answer meanwhile all the same."),
    h("div", { class: "filters" }, state), place);
  let loading = new AbortController();

  async function load() {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    const asked = [{ state: state.value, limit: SHOWN }, { state: "training", limit: 1 }];
    try {
      const [page, training] = await Promise.all(asked.map((query) => memories.jobs(query, signal)));
      const isTraining = training.data.length > 0;
      fill(place, page.data.length ? table(page, isTraining) : none(state.value));
      if (isTraining) setTimeout(() => { if (!signal.aborted) load(); }, PAUSE);  // steps are no events
    } catch (error) {
      if (error.name !== "AbortError") fill(place, problem(error));
    }
  }

  state.addEventListener("input", load);
  arrows(place, "a");
  return { root, enter: load, leave() { loading.abort(); }, changed: later(250, load) };
}

function none(state) {
  const text = state ? `No job is ${state}.` : "Nothing waits: every memory that wants an adapter has one.";
  return empty(text, h("a", { class: "button", href: "#/add" }, "Add a memory"));
}

function table({ data, next_cursor: more }, isTraining) {
  return [
    !isTraining && h("p", { class: "hint" }, "Nobody trains at the moment. A trainer is started with ",
      h("code", {}, "vllm-mega train --bank BANK --watch"), ", or beside the server with ",
      h("code", {}, "vllm-mega serve --train"), "."),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Jobs" }, h("table", {},
      h("thead", {}, h("tr", {}, COLUMNS.map(column))),
      h("tbody", {}, data.map(row)))),
    more && remark(`The first ${count(data.length, "job")}, in the order in which trainers take them.`),
  ];
}

function column(name, at) {
  return h("th", { scope: "col", class: at > 1 && "number" }, name);
}

function row(job) {
  const since = job.started_at && h("time", { title: when(job.started_at) }, ago(job.started_at));
  return h("tr", {},
    h("td", {}, badge(job.state)),
    h("td", {}, link(job), job.reason && h("p", { class: "reason" }, job.reason)),
    h("td", { class: "number" }, job.version), h("td", { class: "number" }, job.attempts),
    h("td", { class: "number" }, since ? [job.steps, " ", since] : "–"));
}
