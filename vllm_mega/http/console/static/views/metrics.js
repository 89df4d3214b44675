// What the server counts, as it counts: asked every two seconds while it is looked at.

import { metrics } from "../api.js";
import { fill, h, problem, remark } from "../dom.js";
import { by, parse, total } from "../prometheus.js";
import { bytes, shorter } from "../text.js";
import { parts, sparkline, tile } from "./tiles.js";

export const title = "Metrics";
const PAUSE = 2000;
const KEPT = 60;
const FOR_ADMINS = "Metrics tell of all namespaces. Give a key with the role admin above.";

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
        fill(place, tiles(past));
      } catch (error) {
        if (signal.aborted) return;
        fill(place, problem(error, error.status === 403 && h("p", {}, FOR_ADMINS)));
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
  const now = (name) => total(found, `mega_${name}`) ?? 0;
  const rate = (name) => sparkline(rates(past, `mega_${name}`));
  const divided = (name, metric, label) => {
    const counts = by(found, `mega_${metric}`, label);
    return tile(name, Object.values(counts).reduce((all, one) => all + one, 0), parts(counts));
  };
  const inside = past.map((one) => total(one.found, "mega_requests_inside"));
  const hosted = share(now("host_hits_total"), now("host_misses_total"));
  return [
    divided("Memories", "bank_memories", "state"),
    divided("Jobs", "bank_jobs", "state"),
    divided("Requests with memory", "routes_total", "route"),
    tile("Adapters on disk", now("bank_adapters"), remark(bytes(now("bank_adapter_bytes")))),
    tile("Requests inside", now("requests_inside"), sparkline(inside),
      remark(`${shorter(now("requests_refused_total"))} refused`)),
    tile("Gate, mean", mean(found, "mega_gate_seconds"), rate("gate_seconds_count"),
      remark("line: decisions a second")),
    tile("Slots in use", now("slots_used"),
      remark(`of ${shorter(now("slots"))}; ${shorter(now("host_adapters"))} adapters in host memory`)),
    tile("Found in a slot", share(now("slot_hits_total"), now("slot_misses_total")),
      remark(`else in host memory: ${hosted}`)),
    tile("Loads", now("loads_total"), rate("loads_total"),
      remark(`${bytes(now("load_bytes_total"))}; line: a second`)),
    tile("Steps waited for disk", `${shorter(now("stall_seconds_total"))} s`, rate("stall_seconds_total"),
      remark("line: seconds a second")),
  ];
}

function rates(past, name) {
  return past.slice(1).map((one, at) => {
    const [before, after] = [total(past[at].found, name), total(one.found, name)];
    return after === undefined || before === undefined ? 0 : Math.max(0, after - before) / (one.at - past[at].at);
  });
}

function share(hits, misses) {
  return hits + misses ? `${Math.round((100 * hits) / (hits + misses))} %` : "–";
}

function mean(found, name) {
  const times = total(found, `${name}_count`);
  return times ? `${shorter((1000 * total(found, `${name}_sum`)) / times)} ms` : "–";
}
