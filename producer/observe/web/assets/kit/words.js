// Numbers, durations and moments in words. Nothing here touches the page.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
// Formatters and the collator are made once: making one takes longer than a hundred uses.
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });
const NAMES = new Intl.Collator("en", { numeric: true });
const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

export const UNKNOWN = "–";

// 1240 as "1,240".
export function count(number) {
  return number == null ? UNKNOWN : WHOLE.format(number);
}

// A speed: one decimal below 10, none above.
export function rate(number) {
  return number == null ? UNKNOWN : (number < 10 ? TENTH : WHOLE).format(number);
}

// 1240000 as "1.2M", for axes and sums that nobody reads to the last digit.
export function short(number) {
  return number == null ? UNKNOWN : SHORT.format(number);
}

// "1 job", "1,240 jobs".
export function many(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

// Seconds in at most two units: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min".
export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds < 9.95) return `${TENTH.format(Math.max(0, seconds))} s`;
  let left = Math.round(seconds);
  const parts = [];
  for (const [unit, size] of UNITS) {
    const whole = Math.floor(left / size);
    left -= whole * size;
    if (whole || parts.length) parts.push(whole ? `${WHOLE.format(whole)} ${unit}` : "");
  }
  return parts.slice(0, 2).filter(Boolean).join(" ");
}

// How long something has lasted: one unit, so that long ages stand still; `moment` has the rest.
export function age(seconds) {
  if (seconds == null || seconds < 120) return duration(seconds == null ? null : Math.floor(seconds));
  const [unit, size] = UNITS.find(([, size]) => seconds >= 2 * size);
  return `${WHOLE.format(Math.floor(seconds / size))} ${unit}`;
}

// An estimate: one unit, and no more digits than it deserves.
export function about(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds < 1) return "less than 1 s";
  const [unit, size] = UNITS.find(([, size]) => seconds >= 1.5 * size) ?? UNITS.at(-1);
  return `about ${WHOLE.format(Math.round(seconds / size))} ${unit}`;
}

export function percent(part, whole) {
  if (!whole) return UNKNOWN;
  const share = (100 * part) / whole;
  if (share > 0 && share < 0.1) return "< 0.1 %";
  if (share > 99.9 && share < 100) return "> 99.9 %";
  return `${TENTH.format(share)} %`;
}

export function bytes(number) {
  if (number == null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, number)) / 10));
  return `${TENTH.format(number / 1024 ** step)} ${units[step]}`;
}

// The time of day; the date too if it was another day.
export function clock(unix, now = Date.now() / 1000) {
  if (unix == null) return UNKNOWN;
  const [then, today] = [new Date(unix * 1000), new Date(now * 1000)];
  const time = TIME.format(then);
  return then.toDateString() === today.toDateString() ? time : `${DAY.format(then)}, ${time}`;
}

// Everything that is known of a moment, for a title.
export function moment(unix) {
  if (unix == null) return "";
  const when = new Date(unix * 1000);
  return `${FULL.format(when)} (${when.toISOString()})`;
}

// "a", "a and b", "a, b and 3 more".
export function listed(names, most = 3) {
  const shown = names.length > most ? names.slice(0, most - 1) : names;
  const rest = names.length - shown.length;
  const parts = rest ? [...shown, `${count(rest)} more`] : shown;
  return parts.length < 2 ? (parts[0] ?? "") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

// Names in the order in which people look for them: gpu-2 before gpu-10.
export const compareNames = NAMES.compare;

// The first so many characters of a text that may be very long.
export function start(text, most = 80) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
