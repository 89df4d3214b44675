// The page: its views by the part of the address behind #, the key, the namespace, and what happens live.

import { door } from "./api.js";
import { current, h } from "./dom.js";
import { askKey } from "./key.js";
import { listen } from "./live.js";
import { session } from "./session.js";
import * as add from "./views/add.js";
import * as chat from "./views/chat.js";
import * as jobs from "./views/jobs.js";
import * as memories from "./views/memories.js";
import * as metrics from "./views/metrics.js";
import * as probe from "./views/probe.js";

const ADDRESS = /^#\/(\w+)(?:\/(.*))?$/;
const VIEWS = { memories, add, chat, probe, jobs, metrics };
const LIVE = { live: "live", polling: "every 3 s", away: "offline" };
const view = document.getElementById("view");
const links = new Map();
let made = {};
let shown = null;
let listening = new AbortController();

/** Show what the address names; a view that was shown before is as it was left. */
function route() {
  const [, name = "", id = ""] = ADDRESS.exec(location.hash) ?? [];
  if (!Object.hasOwn(VIEWS, name)) {
    location.replace("#/memories");
    return;
  }
  const next = (made[name] ??= VIEWS[name].make());
  if (shown !== next) {
    shown?.leave?.();
    view.replaceChildren(next.root);
    document.title = `${VIEWS[name].title} · vllm_mega`;
    for (const [other, link] of links) current(link, other === name);
    shown = next;
  }
  next.enter(decoded(id));
}

/** What stands in an address; somebody may have typed it. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Begin anew: for another key or another namespace nothing holds of what is shown. */
function renew() {
  shown?.leave?.();
  [made, shown] = [{}, null];
  view.replaceChildren();
  route();
  listenAgain();
}

function listenAgain() {
  listening.abort();
  listening = new AbortController();
  if (document.hidden) return;
  listen((event) => shown?.changed?.(event), tell, listening.signal);
}

function tell(state) {
  const place = document.getElementById("live");
  place.dataset.state = state;
  place.textContent = LIVE[state];
}

function shortcuts(event) {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  const goal = { "/": "#/memories", n: "#/add" }[event.key];
  if (!goal) return;
  event.preventDefault();
  location.hash = goal;
  route();
  if (event.key === "/") made.memories.search();
}

function start() {
  for (const [name, { title }] of Object.entries(VIEWS)) {
    const link = h("a", { href: `#/${name}` }, title);
    links.set(name, link);
    document.getElementById("views").append(link);
  }
  const namespace = document.getElementById("namespace");
  namespace.value = session.namespace;
  namespace.addEventListener("change", () => {
    session.namespace = namespace.value.trim();
    renew();
  });
  document.getElementById("key").addEventListener("click", () => askKey(renew));
  door.addEventListener("keyless", () => askKey(renew));
  document.addEventListener("visibilitychange", listenAgain);
  document.addEventListener("keydown", shortcuts);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();  // the part behind # names the view
    view.focus();
  });
  window.addEventListener("hashchange", route);
  route();
  listenAgain();
}

start();
