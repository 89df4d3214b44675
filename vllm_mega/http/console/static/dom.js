// Elements from data. Texts become text nodes and nothing else: the page's policy forbids markup from strings.

/** An element with attributes, listeners (`onclick`, ...) and children; what is null or false is left out. */
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else if (value === true) made.setAttribute(name, name.startsWith("aria-") ? "true" : "");
    else made.setAttribute(name, String(value));
  }
  made.append(...present(children));
  return made;
}

/** Put `children` in the place of what `place` has; what is null or false is left out, as in `h`. */
export function fill(place, ...children) {
  place.replaceChildren(...present(children));
}

const ABSENT = [null, undefined, false];
const present = (children) => children.flat().filter((child) => !ABSENT.includes(child));

/** A field with its label, and a hint below. */
export function field(label, input, hint) {
  return h("label", { class: "field" }, h("span", {}, label), input, hint && h("small", {}, hint));
}

/** A form that submits to `act` alone; why it was refused stands in it. */
export function form(given, act, ...children) {
  const refusal = h("div", { class: "refusal" });
  const made = h("form", { ...given, novalidate: true }, ...children, refusal);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    await attempt(made, refusal, act);
  });
  return made;
}

/** Do `act`, once at a time in `place`; why it was refused is told in `refusal`. The focus stays where it is. */
export async function attempt(place, refusal, act) {
  if (place.ariaBusy === "true") return;
  place.ariaBusy = "true";
  refusal.replaceChildren();
  try {
    await act();
  } catch (error) {
    if (error.name !== "AbortError") refusal.replaceChildren(problem(error));
  } finally {
    place.ariaBusy = null;
  }
}

/** Why something was refused, and whatever helps. */
export function problem(error, ...help) {
  const about = error.param ? h("code", {}, error.param) : null;
  return h("div", { class: "problem", role: "alert" }, h("p", {}, about, about && " ", error.message), ...help);
}

/** A remark. */
export function remark(...text) {
  return h("p", { class: "meta" }, text);
}

/** What stands where there is nothing yet, and what to do about it. */
export function empty(title, ...what) {
  return h("div", { class: "empty" }, h("p", { class: "lead" }, title), ...what);
}

/** The state of a memory or a job. */
export function badge(state) {
  return h("span", { class: "badge", "data-state": state }, state);
}

/** Arrow keys, Home and End move the focus among the elements of `list` that match. */
export function arrows(list, selector) {
  list.addEventListener("keydown", (event) => {
    const all = [...list.querySelectorAll(selector)];
    const at = all.indexOf(event.target.closest(selector));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    all[Math.max(0, Math.min(to, all.length - 1))].focus();
  });
}

/** Mark `link` as the one of several that is shown, or as none. */
export function current(link, is) {
  if (is) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}

/** Say something in passing. */
export function toast(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { place.textContent = ""; }, 5000);
}

/** A question; whether it was answered with `yes`. Escape is no. */
export function confirm(title, text, yes) {
  return new Promise((resolve) => {
    const end = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    const dialog = h("dialog", { "aria-labelledby": "asked", oncancel: () => end(false) },
      h("h2", { id: "asked" }, title), h("p", {}, text),
      h("div", { class: "actions" },
        h("button", { type: "button", onclick: () => end(false), autofocus: true }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => end(true) }, yes)));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** `act`, once nobody has called for so many milliseconds. */
export function later(milliseconds, act) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), milliseconds);
  };
}
