// The table of batches: those under way first, then the newest that are done.

import { bar, el, section, setBar, setClass, setHidden, setMoment, setText, setTitle } from "../kit/dom.js";
import { Table } from "../kit/table.js";
import { about, age, count, percent, start, UNKNOWN } from "../kit/words.js";

export class Batches {
  constructor({ actions }) {
    this.readAt = 0;
    const columns = [batch, state, progress, left, this.#submitted()];
    if (actions) columns.push(cancel(actions));
    this.table = new Table({
      caption: "Batches",
      columns,
      key: (row) => row.batch_id,
      order: underWayFirst,
      most: 12,
      cards: true,
      empty: "No batch is kept in Redis.",
    });
    this.rest = el("p", { class: "none" });
    this.node = section("batches", "Batches", this.table.node, this.rest);
  }

  update(fleet) {
    this.readAt = fleet.read_at;
    this.table.update(fleet.batches);
    const shown = fleet.batches.length;
    setHidden(this.rest, shown >= fleet.num_batches);
    setText(this.rest, `Redis keeps ${count(fleet.num_batches)} batches; these are the newest ${count(shown)}.`);
  }

  #submitted() {
    return {
      title: "Submitted",
      number: true,
      sort: (row) => row.submitted_s_ago,
      set: (cell, row) => setMoment(cell, this.readAt - row.submitted_s_ago, `${age(row.submitted_s_ago)} ago`),
    };
  }
}

function underWayFirst(one, other) {
  return other.is_under_way - one.is_under_way || one.submitted_s_ago - other.submitted_s_ago;
}

export function batchPath(batchId) {
  return `/batches/${encodeURIComponent(batchId)}`;
}

const batch = {
  title: "Batch",
  class: "name line",
  sort: (row) => row.batch_id,
  make: (cell, row) => cell.append(el("a", { href: batchPath(row.batch_id), text: start(row.batch_id, 400) })),
  set: (cell, row) => setTitle(cell, row.batch_id),
};

const state = {
  title: "State",
  sort: (row) => stateWords(row),
  make: (cell) => cell.append(el("span")),
  set: (cell, row) => {
    setText(cell.firstChild, stateWords(row));
    const mark = row.cancelled ? "cross calm" : row.is_under_way ? "half calm" : "disc good";
    setClass(cell.firstChild, `mark ${mark}`);
  },
};

function stateWords(row) {
  if (row.cancelled) return "cancelled";
  return row.is_under_way ? "under way" : "done";
}

const progress = {
  title: "Groups",
  class: "measure wide",
  number: true,
  about: "Groups with an answer, of all",
  sort: (row) => (row.groups ? row.done / row.groups : 0),
  make: (cell) => cell.append(el("span"), bar()),
  set: (cell, row) => {
    const whole = row.done === row.groups ? count(row.groups) : `${count(row.done)} / ${count(row.groups)}`;
    setText(cell.children[0], row.is_under_way ? `${whole} · ${percent(row.done, row.groups)}` : whole);
    setBar(cell.children[1], row.done, row.groups);
    setHidden(cell.children[1], !row.is_under_way);
  },
};

const left = {
  title: "Time left",
  number: true,
  about: "From how fast its groups ended of late",
  sort: (row) => (row.is_under_way ? row.left_s : null),
  set: (cell, row) =>
    setText(cell, row.is_under_way && !row.cancelled ? (row.left_s == null ? "unknown" : about(row.left_s)) : UNKNOWN),
};

function cancel(actions) {
  return {
    title: "Action",
    unseen: true,
    class: "act",
    make: (cell, { batch_id: name }) => {
      cell.append(actions.button("Cancel", () => actions.cancel(name), `Cancel ${name}`));
    },
    set: (cell, row) => setHidden(cell.firstChild, !row.is_under_way || row.cancelled),
  };
}
