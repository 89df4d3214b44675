// Numbers, times and differences of texts, as people read them. Pure.

const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];
const MOST_CELLS = 4_000_000;

/** "5 min. ago"; `at` in seconds since 1970. */
export function ago(at, now = Date.now() / 1000) {
  const passed = Math.max(0, now - at);
  const unit = UNITS.find(([, seconds]) => passed >= seconds);
  return unit ? AGO.format(-Math.floor(passed / unit[1]), unit[0]) : "just now";
}

/** The whole time, for a title. */
export function when(at) {
  return new Date(at * 1000).toLocaleString();
}

/** A moment (RFC 3339; null: never) as an input of the type datetime-local has it: in the reader's own zone. */
export function clock(moment) {
  if (!moment) return "";
  const at = new Date(moment);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** The other way round. */
export function moment(told) {
  return told ? new Date(told).toISOString() : null;
}

/** 1536 -> "1.5 KiB". */
export function bytes(number) {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(number, 1)) / 10));
  return `${shorter(number / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** At most three figures that count; whole numbers with their thousands. */
export function shorter(number) {
  return number.toLocaleString("en", Number.isInteger(number) ? {} : { maximumSignificantDigits: 3 });
}

/** A score or a weight: two digits; null: none. */
export function hundredths(number) {
  return number === null || number === undefined ? "–" : (Math.round(number * 100) / 100 || 0).toFixed(2);
}

/** "a, b" -> ["a", "b"]. */
export function words(text) {
  return text.split(",").map((word) => word.trim()).filter(Boolean);
}

/** "1 memory", "2 memories". */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** What became of `before`, word by word: [["same" | "gone" | "new", text], ...]. */
export function difference(before, after) {
  const [a, b] = [before.split(/(\s+)/), after.split(/(\s+)/)];
  if (a.length * b.length > MOST_CELLS) return [["gone", before], ["new", after]];
  return joined(walk(a, b, longest(a, b)));
}

/** [i, j]: length of the longest common subsequence of a[i:] and b[j:]. */
function longest(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  return table;
}

function* walk(a, b, table) {
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { yield ["same", a[i]]; i++; j++; }
    else if (j >= b.length || (i < a.length && table[i + 1][j] >= table[i][j + 1])) yield ["gone", a[i++]];
    else yield ["new", b[j++]];
  }
}

function joined(steps) {
  const parts = [];
  for (const [kind, text] of steps) {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  }
  return parts;
}
