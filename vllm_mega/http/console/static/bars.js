// Scores and weights as bars, with a line where the threshold is.

import { h } from "./dom.js";
import { hundredths } from "./text.js";

/**
 * A row: what it is, a bar, and its number.
 * @param given `label`; `value` in 0..1 (null: none); `threshold` (undefined: no line); `strong`: it is used;
 *   `notes`: elements; `told`: the same in words, for those who do not see the bar.
 */
export function bar({ label, value, threshold, strong = false, notes = [], told }) {
  const fill = h("span", { class: "fill" });
  const track = h("span", { class: "track", role: "img", "aria-label": told }, fill);
  fill.style.setProperty("--share", clamped(value ?? 0));
  if (threshold !== undefined && threshold !== null) {
    const line = h("span", { class: "line", title: `threshold ${hundredths(threshold)}` });
    line.style.setProperty("--share", clamped(threshold));
    track.append(line);
  }
  return h("li", { class: "bar", "data-strong": strong },
    h("span", { class: "label" }, label), track,
    h("span", { class: "number" }, hundredths(value)),
    h("span", { class: "notes" }, notes));
}

const clamped = (value) => Math.max(0, Math.min(1, value));
