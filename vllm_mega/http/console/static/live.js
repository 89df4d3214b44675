// All changes of the namespace as they happen; where the server keeps no more streams, it is asked now and then.

import { memories, stream } from "./api.js";
import { events } from "./sse.js";

const PAUSE = 3000;
const HOPELESS = [400, 401, 403];  // until there is another key or namespace

/**
 * Listen until `signal` ends it.
 * @param changed called with each event, and with null where something may have been missed.
 * @param told called with "live", "polling" or "away".
 */
export async function listen(changed, told, signal) {
  let last;
  while (!signal.aborted) {
    try {
      last ??= await newest(signal);
      const answer = await stream(last, signal);
      told("live");
      changed(null);
      for await (const event of events(answer.body)) {
        last = event.id;
        changed(JSON.parse(event.data));
      }
    } catch (error) {
      if (signal.aborted) return;
      told(error.status === 503 ? "polling" : "away");
      if (HOPELESS.includes(error.status) && last === undefined) return;
      if (HOPELESS.includes(error.status)) last = undefined;
      if (error.status === 503) changed(null);
    }
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
  }
}

/** A token near the end of all events: a bank may have millions, and only the new ones matter here. */
async function newest(signal) {
  const [latest] = (await memories.list({ limit: 1 }, signal)).data;
  return latest && (await memories.history(latest.id, signal)).events.at(-1)?.event;
}
