// What the server counts, as it counts: asked every two seconds while it is looked at.

import { metrics } from "../api.js";
import { h, problem } from "../dom.js";
import { by, parse, total } from "../prometheus.js";
import { bytes, shorter } from "../text.js";
import { parts, sparkline, tile } from "./tiles.js";

export const title = "Metrics";
const PAUSE = 2000;
const KEPT = 60;

export function make() {
  const place = h("div", { class: "tiles" });
  const root = h("section", { class: "metrics" }, h("h1", {}, "Metrics"), place);
  const past = [];
  let watching = new AbortController();

  async function watch(signal) {
    while (!signal.aborted) {
      try {
        past.push(await sample(signal));
        if (past.length > KEPT) past.shift();
        place.replaceChildren(...tiles(past));
      } catch (error) {
        if (signal.aborted) return;
        place.replaceChildren(problem(error, error.status === 403 && h("p", {}, "Metrics tell of all namespaces. Give a key with the role admin above.")));
        if ([401, 403, 501].includes(error.status)) return;
      }
      await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
  }

  return {
    root,
    enter() { watching.abort(); watching = new AbortController(); watch(watching.signal); },
    leave() { watching.abort(); },
  };
}

/** All that is counted at one moment. */
async function sample(signal) {
  const ours = await metrics("mega/metrics", signal);
  return { at: performance.now() / 1000, found: parse(`${ours}\n${await metrics("metrics", signal)}`) };
}

function tiles(past) {
  const { found } = past.at(-1);
  const now = (name) => total(found, name);
  const rate = (name) => rates(past, name);
  return [
    tile("Memories", sum(by(found, "mega_bank_memories", "state")), parts(by(found, "mega_bank_memories", "state"))),
    tile("Jobs", sum(by(found, "mega_bank_jobs", "state")), parts(by(found, "mega_bank_jobs", "state"))),
    tile("Adapters on disk", now("mega_bank_adapters"), note(`${bytes(now("mega_bank_adapter_bytes") ?? 0)}, event ${now("mega_bank_event") ?? "–"}`)),
    tile("Requests inside", now("mega_requests_inside"), sparkline(past.map((one) => total(one.found, "mega_requests_inside"))), note(`${shorter(now("mega_requests_refused_total") ?? 0)} refused`)),
    tile("Answered with memory", sum(by(found, "mega_routes_total", "route")), parts(by(found, "mega_routes_total", "route"))),
    tile("Gate, mean", mean(found, "mega_gate_seconds"), sparkline(rate("mega_gate_seconds_count")), note("line: decisions a second")),
    tile("Slots in use", now("mega_slots_used"), note(`of ${shorter(now("mega_slots") ?? 0)}; ${shorter(now("mega_host_adapters") ?? 0)} adapters in host memory`)),
    tile("Found in a slot", share(now("mega_slot_hits_total"), now("mega_slot_misses_total")), note(`else in host memory: ${share(now("mega_host_hits_total"), now("mega_host_misses_total")) ?? "–"}`)),
    tile("Loads", now("mega_loads_total"), sparkline(rate("mega_loads_total")), note(`${bytes(now("mega_load_bytes_total") ?? 0)}; line: a second`)),
    tile("Steps waited for disk", seconds(now("mega_stall_seconds_total")), sparkline(rate("mega_stall_seconds_total")), note("line: seconds a second")),
  ];
}

const note = (text) => h("p", { class: "meta" }, text);
const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
const seconds = (number) => (number === undefined ? undefined : `${shorter(number)} s`);

function rates(past, name) {
  return past.slice(1).map((one, at) => {
    const [before, after] = [total(past[at].found, name), total(one.found, name)];
    return after === undefined || before === undefined ? 0 : Math.max(0, after - before) / (one.at - past[at].at);
  });
}

function share(hits = 0, misses = 0) {
  return hits + misses ? `${Math.round((100 * hits) / (hits + misses))} %` : undefined;
}

function mean(found, name) {
  const times = total(found, `${name}_count`);
  return times ? `${shorter((1000 * total(found, `${name}_sum`)) / times)} ms` : undefined;
}
