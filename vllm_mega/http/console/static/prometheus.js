// Prometheus' text format, as much of it as there is to show. Pure.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** A map from names to [{labels, value}]. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (!name) continue;
    const pairs = [...labels.matchAll(LABEL)].map(([, label, said]) => [label, said]);
    const one = { labels: Object.fromEntries(pairs), value: Number(value) };
    if (found.has(name)) found.get(name).push(one);
    else found.set(name, [one]);
  }
  return found;
}

/** The sum over all workers, engines and processes; undefined: nobody counts it. */
export function total(found, name) {
  return found.get(name)?.reduce((sum, one) => sum + one.value, 0);
}

/** By one label, the sums. */
export function by(found, name, label) {
  const sums = {};
  for (const { labels, value } of found.get(name) ?? []) sums[labels[label]] = (sums[labels[label]] ?? 0) + value;
  return sums;
}
