// The table of workers.

import { bar, el, section, setBar, setClass, setClipped, setHidden, setMoment, setText, setTitle } from "../kit/dom.js";
import { isRefusing, isThere, refusedVersion } from "../kit/facts.js";
import { meaningOf, PAUSES, stateOf, STATES } from "../kit/meanings.js";
import { Table } from "../kit/table.js";
import { clock, compareNames, count, duration, rate, start } from "../kit/words.js";

export class Workers {
  constructor({ actions }) {
    this.readAt = 0;
    const columns = [name, this.#state(), engine, version, sequences, speed, groups, failed, this.#seen()];
    if (actions) columns.push(this.#drain(actions));
    this.table = new Table({
      caption: "Workers",
      columns,
      key: (worker) => worker.consumer,
      order: worstFirst,
      most: 50,
      cards: true,
      empty: "No worker reports. Start one with rollstream-worker.",
    });
    this.node = section("workers", "Workers", this.table.node);
  }

  update(fleet) {
    this.readAt = fleet.read_at;
    this.table.update(fleet.workers);
  }

  #state() {
    return {
      title: "State",
      class: "line",
      sort: (worker) => STATES[stateOf(worker)].rank,
      make: (cell) => cell.append(el("span", { class: "state" }), el("span", { class: "why" })),
      set: (cell, worker) => {
        const [word, why] = cell.children;
        const { shape, level } = STATES[stateOf(worker)];
        setClass(word, `state mark ${shape} ${level}`);
        setText(word, this.#stateWords(worker));
        const reason = whyWords(worker);
        setHidden(why, !reason);
        setClipped(why, reason, 160);
      },
    };
  }

  #stateWords(worker) {
    const state = stateOf(worker);
    if (state === "unknown") return worker.report.state ? start(worker.report.state, 30) : "unknown";
    if (worker.presence === "live" || worker.seen_s_ago == null) return state;
    return `${state} since ${clock(this.readAt - worker.seen_s_ago)}`;
  }

  #seen() {
    return {
      title: "Seen",
      number: true,
      about: "How long ago its last report came",
      sort: (worker) => worker.seen_s_ago,
      set: (cell, worker) => {
        const known = worker.seen_s_ago != null;
        setMoment(
          cell,
          known ? this.readAt - worker.seen_s_ago : null,
          known ? `${duration(worker.seen_s_ago)} ago` : "unknown",
        );
      },
    };
  }

  #drain(actions) {
    return {
      title: "Action",
      unseen: true,
      class: "act",
      make: (cell, { consumer }) => {
        cell.append(actions.button("Drain", () => actions.drain(consumer), `Drain ${consumer}`));
      },
      set: (cell, worker) => {
        setHidden(cell.firstChild, worker.presence === "gone" || worker.report.state === "draining");
      },
    };
  }
}

function worstFirst(one, other) {
  const rank = STATES[stateOf(one)].rank - STATES[stateOf(other)].rank;
  return rank || compareNames(one.consumer, other.consumer);
}

function whyWords(worker) {
  const { report } = worker;
  if (worker.presence === "gone") return "killed, or cannot reach Redis";
  if (report.loading_version != null) return `loads version ${report.loading_version}`;
  if (report.state === "starting") return "loads its model";
  return report.paused_for.map((reason) => meaningOf(PAUSES, reason) || reason).join("; ");
}

const name = {
  title: "Worker",
  class: "name line",
  sort: (worker) => worker.consumer,
  set: (cell, worker) => setClipped(cell, worker.consumer),
};

const engine = {
  title: "Engine and model",
  class: "text line",
  sort: (worker) => worker.report.model || worker.report.engine,
  set: (cell, worker) =>
    setClipped(cell, [worker.report.engine, worker.report.model].filter(Boolean).join(" · ") || "–"),
};

const version = {
  title: "Version",
  about: "The policy version that it serves, and the newest if that is another",
  sort: (worker) => worker.report.policy_version,
  number: true,
  make: (cell) => cell.append(el("span"), el("span", { class: "why" })),
  set: (cell, worker) => {
    const { report } = worker;
    const [serves, other] = cell.children;
    setText(serves, count(report.policy_version));
    const refuses = isRefusing(worker);
    const waits = isThere(worker) && report.newest_version != null && report.newest_version !== report.policy_version;
    const ahead = isThere(worker) && !waits && report.prepared_version > (report.policy_version ?? 0);
    setHidden(other, !refuses && !waits && !ahead);
    const next = waits ? `→ ${report.newest_version}` : ahead ? `${report.prepared_version} prepared` : "";
    setText(other, refuses ? `${refusedVersion(report) ?? "?"} refused` : next);
    setClass(other, refuses ? "why bad" : "why");
    setTitle(other, refuses ? report.policy_error : "");
    setTitle(serves, report.policy_proof ? `Proven: ${report.policy_proof}` : "");
  },
};

const sequences = {
  title: "Sequences",
  about: "In its engines now / how many they run at once; those beyond wait inside",
  number: true,
  class: "measure",
  sort: (worker) => worker.report.running_sequences,
  make: (cell) => cell.append(el("span"), bar()),
  set: (cell, { presence, report }) => {
    const running = presence === "gone" ? null : report.running_sequences;
    setText(cell.children[0], `${count(running)} / ${count(report.max_sequences)}`);
    setBar(cell.children[1], running ?? 0, report.max_sequences ?? 0);
  },
};

const speed = {
  title: "Tokens/s",
  number: true,
  sort: (worker) => worker.report.tokens_per_s,
  set: (cell, { presence, report }) => setText(cell, presence === "gone" ? "–" : rate(report.tokens_per_s)),
};

const groups = {
  title: "Groups",
  about: "Answered since it started",
  number: true,
  sort: (worker) => worker.report.groups_published,
  make: (cell) => cell.append(el("span"), el("span", { class: "why" })),
  set: (cell, { presence, report }) => {
    setText(cell.children[0], count(report.groups_published));
    const runs = presence === "gone" ? 0 : (report.running_groups ?? 0);
    const waits = presence === "gone" ? 0 : (report.waiting_groups ?? 0);
    const words = [runs ? `${count(runs)} run` : "", waits ? `${count(waits)} wait` : ""].filter(Boolean).join(", ");
    setHidden(cell.children[1], !words);
    setText(cell.children[1], words);
  },
};

const failed = {
  title: "Errors",
  about: "Of these, groups that got an error",
  number: true,
  sort: (worker) => worker.report.groups_failed,
  set: (cell, { report }) => {
    setText(cell, count(report.groups_failed));
    cell.classList.toggle("warn", Boolean(report.groups_failed));
  },
};
