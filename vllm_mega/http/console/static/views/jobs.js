// What waits for a trainer, what one has, and what has failed.

import { memories } from "../api.js";
import { badge, empty, fill, h, later, problem } from "../dom.js";
import { ago, count, when } from "../text.js";

export const title = "Jobs";
const WANTED = ["training", "failed", "pending"];
const SHOWN = 50;

export function make() {
  const place = h("div", { "aria-live": "polite" });
  const root = h("section", { class: "jobs" }, h("h1", {}, "Jobs"),
    h("p", { class: "meta" }, "Memories without an adapter of their newest version. They answer meanwhile, as texts or by the version before."), place);
  let loading = new AbortController();

  async function load() {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    try {
      const pages = await Promise.all(WANTED.map((state) => memories.list({ state, limit: SHOWN }, signal)));
      const rows = pages.flatMap((page) => page.data).slice(0, SHOWN);
      const jobs = await Promise.all(rows.map((one) => memories.job(one.id, signal).catch(() => null)));
      const more = pages.some((page) => page.next_cursor) || rows.length === SHOWN;
      if (!signal.aborted) draw(rows.map((one, at) => [one, jobs[at]]).filter(([, job]) => job), more);
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(problem(error));
    }
  }

  function draw(rows, more) {
    if (!rows.length) {
      place.replaceChildren(empty("Nothing waits: every memory that wants an adapter has one.", h("a", { class: "button", href: "#/add" }, "Add a memory")));
      return;
    }
    const waiting = rows.every(([, job]) => job.state === "waiting");
    fill(place,
      waiting && h("p", { class: "hint" }, "Nobody trains at the moment. A trainer is started with ", h("code", {}, "vllm-mega train --bank BANK --watch"), ", or beside the server with ", h("code", {}, "vllm-mega serve --train"), "."),
      h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, ["State", "Memory", "Version", "Tries", "Since"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows.map(([one, job]) => row(one, job))))),
      more && h("p", { class: "meta" }, `Only ${count(rows.length, "job")} are shown.`));
  }

  return { root, enter: load, leave() { loading.abort(); }, changed: later(250, load) };
}

function row(one, job) {
  return h("tr", {},
    h("td", {}, badge(job.state)),
    h("td", {}, h("a", { href: `#/memories/${encodeURIComponent(one.id)}` }, one.title || one.id), job.reason && h("p", { class: "reason" }, job.reason)),
    h("td", { class: "number" }, job.version), h("td", { class: "number" }, job.attempts),
    h("td", {}, h("time", { title: when(one.updated_at) }, ago(one.updated_at))));
}
