// The table of a batch's groups.

import { el, setClass, setClipped, setHidden, setText, setTitle } from "../kit/dom.js";
import { sum } from "../kit/facts.js";
import { ERRORS, meaningOf } from "../kit/meanings.js";
import { Table } from "../kit/table.js";
import { count, duration, listed, many, rate, UNKNOWN } from "../kit/words.js";

const MARKS = {
  waiting: "ring calm",
  answered: "ring calm",
  result: "disc good",
  error: "cross bad",
  cancelled: "cross calm",
  cut: "cross calm",
};

export class Groups {
  constructor({ open }) {
    this.words = el("p", { class: "now" });
    this.table = new Table({
      caption: "Groups",
      columns: [number, state, prompt, lengths, finishes, versions, worker, deliveries, times, details(open)],
      key: (group) => group.group,
      most: 1_000,
      cards: true,
      empty: "There are no groups here.",
    });
    this.node = el("div", {}, this.words, this.table.node);
  }

  update({ groups }) {
    this.table.update(groups);
    setText(this.words, summary(groups));
  }
}

// What is shown below, in one line.
function summary(groups) {
  const completions = groups.flatMap((group) => group.completions);
  if (!completions.length) return "";
  const tokens = sum(completions.map((one) => one.length));
  const errors = groups.filter((group) => group.state === "error").length;
  const mean = `${rate(tokens / completions.length)} tokens in the mean`;
  const failed = errors ? `; ${many(errors, "error")}` : "";
  return `Below: ${many(completions.length, "completion")}, ${mean}; ${finishWords(completions)}${failed}.`;
}

function finishWords(completions) {
  const by = new Map();
  for (const one of completions) by.set(one.finish_reason, (by.get(one.finish_reason) ?? 0) + 1);
  const sorted = [...by].sort(([, one], [, other]) => other - one);
  return listed(
    sorted.map(([reason, times]) => `${count(times)} ${reason}`),
    4,
  );
}

const number = {
  title: "Group",
  class: "line numbered",
  sort: (group) => group.group,
  set: (cell, group) => setText(cell, String(group.group)),
};

const state = {
  title: "State",
  class: "line",
  sort: (group) => group.state,
  make: (cell) => cell.append(el("span"), el("span", { class: "why" })),
  set: (cell, group) => {
    setText(cell.children[0], group.state === "error" ? `error: ${group.code}` : group.state);
    setClass(cell.children[0], `mark ${MARKS[group.state] ?? "ring calm"}`);
    const why = group.message || (group.state === "error" ? meaningOf(ERRORS, group.code) : "");
    setHidden(cell.children[1], !why);
    setClipped(cell.children[1], why, 200);
  },
};

const prompt = {
  title: "Prompt",
  number: true,
  about: "Tokens of the prompt",
  sort: (group) => group.prompt_length,
  set: (cell, group) => setText(cell, count(group.prompt_length)),
};

const lengths = {
  title: "Lengths",
  number: true,
  about: "Tokens of the completions: the shortest to the longest",
  sort: (group) => (group.completions.length ? Math.max(...group.completions.map((one) => one.length)) : null),
  set: (cell, group) => {
    const found = group.completions.map((one) => one.length);
    const [least, most] = [Math.min(...found), Math.max(...found)];
    const range = least === most ? count(most) : `${count(least)} to ${count(most)}`;
    setText(
      cell,
      found.length ? (group.num_completions > 1 ? `${count(group.num_completions)} × ${range}` : range) : UNKNOWN,
    );
    setTitle(cell, found.join(", "));
  },
};

const finishes = {
  title: "Finished by",
  set: (cell, group) => setClipped(cell, group.completions.length ? finishWords(group.completions) : UNKNOWN),
};

const versions = {
  title: "Version",
  about: "Policy versions that sampled its tokens",
  number: true,
  set: (cell, group) => {
    const seen = new Set(group.completions.flatMap((one) => one.versions.map(([version]) => version)));
    setText(cell, listed([...seen].sort((one, other) => one - other).map(String)) || UNKNOWN);
  },
};

const worker = {
  title: "Answered by",
  class: "name",
  sort: (group) => group.worker || null,
  set: (cell, group) => setClipped(cell, group.worker || UNKNOWN),
};

const deliveries = {
  title: "Delivery",
  number: true,
  about: "Which delivery of its job answered; the ones before it ended without an answer",
  sort: (group) => group.delivery,
  set: (cell, group) => setText(cell, count(group.delivery)),
};

const times = {
  title: "Queued, run",
  number: true,
  about: "How long its job waited for a worker, and how long the group was generated",
  sort: (group) => group.generate_s,
  set: (cell, group) => {
    const known = group.queued_s != null;
    setText(cell, known ? `${duration(group.queued_s)}, ${duration(group.generate_s)}` : UNKNOWN);
  },
};

function details(open) {
  return {
    title: "Details",
    unseen: true,
    class: "act",
    make: (cell, group) => {
      const label = `Show group ${group.group}`;
      cell.append(
        el("button", {
          type: "button",
          class: "action",
          text: "Show",
          title: label,
          "aria-label": label,
          onclick: () => open(group.group),
        }),
      );
    },
    set: (cell, group) => setHidden(cell.firstChild, ["waiting", "cancelled", "cut"].includes(group.state)),
  };
}
