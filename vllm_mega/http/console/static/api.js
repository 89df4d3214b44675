// What the page asks of its server: the routes of docs/http.md and of OpenAI, with the key of the session.

import { session } from "./session.js";

/** The server's root; a proxy may have put it under a path. */
const ROOT = new URL("../../", import.meta.url);
/** `keyless` is told when the server wants a key that the session has not. */
export const door = new EventTarget();

/** Why the server has not done it, in OpenAI's form. Status 0: it was not reached. */
export class Refused extends Error {
  constructor(status, told) {
    super(told.message);
    this.status = status;
    this.param = told.param ?? null;
  }
}

/** The answer to a request; `query` without what is empty, `body` as JSON. */
export async function send(method, path, { query = {}, body, headers = {}, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const sent = { ...headers };
  if (session.key) sent.Authorization = `Bearer ${session.key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const said = body && JSON.stringify(body);
  const answer = await reach(url, { method, headers: sent, body: said, signal, cache: "no-store" });
  if (answer.ok) return answer;
  if (answer.status === 401) door.dispatchEvent(new Event("keyless"));
  throw new Refused(answer.status, await told(answer));
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The server cannot be reached: see whether it runs, then try again." });
  }
}

async function told(answer) {
  const body = await answer.json().catch(() => null);
  if (body?.error?.message) return body.error;
  if (answer.status === 401) return { message: "This server needs a key: give it above." };
  return { message: `The server answered ${answer.status} ${answer.statusText}.` };
}

/** A memory's path. */
const at = (id, more = "") => `v1/mega/memories/${encodeURIComponent(id)}${more}`;
const mine = () => ({ namespace: session.namespace });
const matching = (etag) => (etag ? { "If-Match": etag } : {});
const json = async (answer) => (await answer).json();

/** A memory with the ETag that its changes are made against. */
async function whole(asked) {
  const answer = await asked;
  return { ...(await answer.json()), etag: answer.headers.get("ETag") };
}

/** A body, with the namespace if one is chosen. */
const about = (body) => (session.namespace ? { ...body, namespace: session.namespace } : body);

export const memories = {
  list: (query, signal) => json(send("GET", "v1/mega/memories", { query: { ...mine(), ...query }, signal })),
  get: (id, query, signal) => whole(send("GET", at(id), { query: { ...mine(), ...query }, signal })),
  add: (body) => json(send("POST", "v1/mega/memories", { body: about(body) })),
  change: (id, body, etag) => whole(send("PATCH", at(id), { query: mine(), body, headers: matching(etag) })),
  forget: (id, etag) => json(send("DELETE", at(id), { query: mine(), headers: matching(etag) })),
  history: (id, signal) => json(send("GET", at(id, "/history"), { query: mine(), signal })),
  restore: (id, version, etag) =>
    whole(send("POST", at(id, "/restore"), { query: mine(), body: { version }, headers: matching(etag) })),
  search: (body, signal) => json(send("POST", "v1/mega/search", { body: about(body), signal })),
  document: (body) => json(send("POST", "v1/mega/documents", { body: about(body) })),
  jobs: (query, signal) => json(send("GET", "v1/mega/jobs", { query: { ...mine(), ...query }, signal })),
};

/** Events as they happen, behind the one with this token. */
export function stream(after, signal) {
  const headers = { Accept: "text/event-stream" };
  return send("GET", "v1/mega/events", { query: { ...mine(), after }, headers, signal });
}

export const models = (signal) => json(send("GET", "v1/models", { signal }));
export const chat = (body, signal) => send("POST", "v1/chat/completions", { body, signal });
export const metrics = async (path, signal) => (await send("GET", path, { signal })).text();
