// A chat with memory; beside each answer, the memories behind it.

import { Refused, chat, models } from "../api.js";
import { empty, fill, h, problem, remark } from "../dom.js";
import { session } from "../session.js";
import { events } from "../sse.js";
import { used } from "./used.js";

export const title = "Chat";
const MODES = {
  "": "the server's mode", adapter: "adapter: answer directly", recall: "recall: tell the best memory",
  irag: "irag: recall, then answer", text: "text: read the memories", both: "both: read, and a share of the adapters",
  off: "off: the base model",
};
const SUFFIX = "-mega";
const NO_MEMORY = `No model here is called …${SUFFIX}, so the server has no memory: start it with vllm-mega serve.`;

export function make() {
  let said = [];
  const model = h("select", { "aria-label": "Model" });
  const mode = h("select", { "aria-label": "Mode" },
    Object.entries(MODES).map(([name, text]) => h("option", { value: name }, text)));
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
  const placeholder = "Ask about something that is remembered";
  const input = h("textarea", { rows: 2, placeholder, "aria-label": "Message" });
  const stop = h("button", { type: "button", disabled: true, onclick: () => running.abort() }, "Stop");
  const send = h("button", { class: "primary" }, "Send");
  const composer = h("form", { class: "composer" }, input, h("div", { class: "actions" }, stop, send));
  const root = h("section", { class: "chat" },
    h("div", { class: "filters" }, h("h1", { class: "unseen" }, "Chat"), model, mode,
      h("button", { type: "button", onclick: () => begin() }, "New chat")),
    log, composer);
  let running = new AbortController();

  const greet = () => fill(log, empty("Ask something. Beside the answer stands which memories it came from."));

  function begin() {
    running.abort();
    said = [];
    greet();
    input.focus();
  }

  async function offer() {
    try {
      const { data } = await models();
      const names = data.map((one) => one.id).sort((a, b) => b.endsWith(SUFFIX) - a.endsWith(SUFFIX));
      model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      if (!names[0]?.endsWith(SUFFIX)) throw new Error(NO_MEMORY);
    } catch (error) {
      log.replaceChildren(problem(error));
    }
  }

  async function ask() {
    const question = input.value.trim();
    if (!question || !stop.disabled) return;
    if (!said.length) log.replaceChildren();
    input.value = "";
    const answer = turn(log, question);
    const conversation = said;  // another may begin meanwhile
    conversation.push({ role: "user", content: question });
    [stop.disabled, send.disabled] = [false, true];
    running = new AbortController();
    try {
      await read(await chat(body(), running.signal), answer);
    } catch (error) {
      if (error.name === "AbortError") answer.beside.append(remark("Stopped."));
      else answer.beside.replaceChildren(problem(error));
    }
    if (answer.text.textContent) conversation.push({ role: "assistant", content: answer.text.textContent });
    else conversation.pop();
    answer.text.removeAttribute("aria-busy");
    [stop.disabled, send.disabled] = [true, false];
  }

  function body() {
    const mega = { explain: true };
    if (mode.value) mega.mode = mode.value;
    if (session.namespace) mega.namespace = session.namespace;
    const streamed = { stream: true, stream_options: { include_usage: true } };
    const hasMemory = model.value.endsWith(SUFFIX);
    return { model: model.value, messages: said, ...streamed, ...(hasMemory && { mega }) };
  }

  async function read(reply, answer) {
    for await (const { data } of events(reply.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.code, chunk.error);
      answer.text.append(chunk.choices[0]?.delta?.content ?? "");
      if (chunk.mega) fill(answer.beside, used(chunk.mega, chunk.usage));
      log.scrollTop = log.scrollHeight;
    }
  }

  composer.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  greet();
  return {
    root,
    enter() {
      if (!model.options.length) offer();
      log.scrollTop = log.scrollHeight;
      input.focus();
    },
    leave() { running.abort(); },
  };
}

/** A question, and places for its answer and for what stands beside it. */
function turn(log, question) {
  const text = h("p", { class: "said answer", "aria-busy": "true" });
  const beside = h("aside", { class: "beside", "aria-label": "Memories behind the answer" }, remark("…"));
  log.append(h("div", { class: "turn" }, h("p", { class: "said question" }, question), text, beside));
  log.scrollTop = log.scrollHeight;
  return { text, beside };
}
