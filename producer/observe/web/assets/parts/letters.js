// The newest dead letters: jobs that were given up on.

import { el, section, setClipped, setHidden, setMoment, setText, setTitle } from "../kit/dom.js";
import { batchPath } from "./batches.js";
import { Table } from "../kit/table.js";
import { age, count, start } from "../kit/words.js";

export function letterPath(partition, letterId) {
  return `/letters/${partition}/${encodeURIComponent(letterId)}`;
}

export class Letters {
  constructor() {
    this.readAt = 0;
    this.table = new Table({
      caption: "Dead letters, the newest first",
      columns: [
        this.#when(),
        what,
        whose,
        { title: "Deliveries", number: true, set: (cell, row) => setText(cell, count(row.deliveries)) },
      ],
      key: (row) => `${row.partition}/${row.letter_id}`,
      most: 10,
      cards: true,
      empty: "No job was given up on.",
    });
    this.rest = el("p", { class: "none" });
    this.node = section("letters", "Dead letters", this.table.node, this.rest);
  }

  update(fleet) {
    this.readAt = fleet.read_at;
    this.table.update(fleet.letters);
    setHidden(this.rest, fleet.letters.length >= fleet.num_letters);
    setText(this.rest, `These are the newest of ${count(fleet.num_letters)}; rollstream dead ls lists all.`);
  }

  #when() {
    return {
      title: "Given up",
      make: (cell, row) => cell.append(el("a", { href: letterPath(row.partition, row.letter_id) })),
      set: (cell, row) => setMoment(cell.firstChild, this.readAt - row.buried_s_ago, `${age(row.buried_s_ago)} ago`),
    };
  }
}

const what = {
  title: "Error",
  class: "text line",
  set: (cell, row) => setClipped(cell, row.error || "no error was written"),
};

const whose = {
  title: "Batch",
  class: "name",
  make: (cell, row) => {
    cell.append(row.batch_id ? el("a", { href: batchPath(row.batch_id), text: start(row.batch_id, 400) }) : "unknown");
  },
  set: (cell, row) => setTitle(cell, row.batch_id),
};
