// The strip of numbers below the first line.

import { jobsOf, isThere, sum } from "../kit/facts.js";
import { el, setText, setTitle } from "../kit/dom.js";
import { about, age, bytes, count, many, percent, rate, short, UNKNOWN } from "../kit/words.js";

const FIGURES = [
  [
    "tokens",
    "Tokens/s",
    "What live workers report: tokens of completions that ended in the last half minute, a second",
  ],
  ["waiting", "Jobs waiting", "Jobs that no worker has taken"],
  ["running", "Jobs running", "Jobs that workers have taken and not finished"],
  ["parked", "Jobs parked", "Jobs that wait for a newer policy version, or for their session's worker"],
  ["backlog", "Work left", "How long the workers take for all that is not answered, from how fast they were of late"],
  ["batches", "Batches under way", "Batches with a group that has no answer yet"],
  ["memory", "Redis", "Memory that Redis uses"],
];

export class Figures {
  constructor() {
    this.parts = new Map();
    this.node = el("dl", { class: "figures", "aria-label": "Now" });
    for (const [name, title, meaning] of FIGURES) {
      const value = el("dd", { class: "value", text: UNKNOWN });
      const below = el("dd", { class: "below" });
      this.parts.set(name, { value, below });
      this.node.append(el("div", { data: { figure: name }, title: meaning }, el("dt", { text: title }), value, below));
    }
  }

  update(fleet) {
    for (const [name, [value, below]] of Object.entries(figuresOf(fleet))) {
      const part = this.parts.get(name);
      setText(part.value, value);
      setText(part.below, below);
      setTitle(part.below, below);
    }
  }
}

function sessionWords(jobs) {
  return jobs.for_sessions ? "for their session's worker" : "";
}

function figuresOf(fleet) {
  const jobs = jobsOf(fleet);
  const there = fleet.workers.filter(isThere).map((worker) => worker.report);
  const sequences = sum(there.map((report) => report.running_sequences ?? 0));
  const versions = [...new Set(fleet.queues.flatMap((queue) => queue.parked.map((one) => one.version)))];
  const underWay = fleet.batches.filter((batch) => batch.is_under_way).length;
  const one = fleet.rate.tokens_per_s;
  return {
    tokens: [rate(fleet.tokens_per_s), one == null ? "" : `${rate(one)} a busy worker`],
    waiting: [count(jobs.waiting), jobs.oldest_s == null ? "" : `the oldest for ${age(jobs.oldest_s)}`],
    running: [count(jobs.running), many(sequences, "sequence")],
    parked: [count(jobs.parked), versions.length ? `for version ${versions.join(", ")}` : sessionWords(jobs)],
    backlog: [workWords(fleet), fleet.open_tokens ? `at most ${short(fleet.open_tokens)} tokens` : ""],
    batches: [count(underWay), `${count(fleet.num_batches)} kept`],
    memory: memoryWords(fleet),
  };
}

function workWords(fleet) {
  if (!fleet.open_tokens) return "none";
  return fleet.backlog_s == null ? "unknown" : about(fleet.backlog_s).replace("about ", "≈ ");
}

function memoryWords(fleet) {
  const { redis_memory: used, redis_memory_limit: limit } = fleet;
  if (used == null) return [UNKNOWN, "may not be asked"];
  const parts = fleet.partials_bytes ? `, ${bytes(fleet.partials_bytes)} partials` : "";
  return [bytes(used), (limit > 0 ? `${percent(used, limit)} of ${bytes(limit)}` : "no limit set") + parts];
}
