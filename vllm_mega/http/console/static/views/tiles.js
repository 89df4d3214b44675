// A number with what explains it: parts of a whole, or a line of what came before.

import { h } from "../dom.js";
import { shorter } from "../text.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH] = [120, 28];

/** A number, or what is said instead, and what explains it. */
export function tile(name, value, ...more) {
  const said = typeof value === "number" ? shorter(value) : value;
  return h("div", { class: "tile", role: "group", "aria-label": name },
    h("h2", {}, name), h("p", { class: "figure" }, said), more);
}

/** A stacked bar and its legend; `counts` by name. */
export function parts(counts) {
  const all = Object.entries(counts).filter(([, number]) => number > 0);
  const stack = h("div", { class: "stack", "aria-hidden": true }, all.map(([name, number]) => {
    const part = h("span", { "data-state": name });
    part.style.setProperty("flex-grow", number);
    return part;
  }));
  const legend = all.map(([name, number]) => h("li", { "data-state": name }, `${name} ${shorter(number)}`));
  return h("div", {}, stack, h("ul", { class: "legend" }, legend));
}

/** A line through `values`, the newest at the right. */
export function sparkline(values) {
  const most = Math.max(...values, 0) || 1;
  const points = values.map((value, at) => {
    const x = values.length > 1 ? (at * WIDE) / (values.length - 1) : WIDE;
    return `${x.toFixed(1)},${(HIGH - 1 - ((value ?? 0) / most) * (HIGH - 3)).toFixed(1)}`;
  });
  const [picture, line] = [document.createElementNS(SVG, "svg"), document.createElementNS(SVG, "polyline")];
  line.setAttribute("points", points.join(" "));
  picture.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("class", "spark");
  picture.setAttribute("aria-hidden", "true");
  picture.append(line);
  return picture;
}
