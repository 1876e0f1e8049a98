// Policy versions: what was announced, who serves it, how long it took to reach all workers.

import { el, section, setClass, setMoment, setText, setTitle } from "../kit/dom.js";
import { isThere, newestVersion } from "../kit/facts.js";
import { Table } from "../kit/table.js";
import { age, count, duration, listed, many, start } from "../kit/words.js";

export class Versions {
  constructor() {
    this.fleet = null;
    this.table = new Table({
      caption: "Policy versions, the newest first",
      columns: [version, this.#announced(), this.#served(), this.#reached()],
      key: (row) => row.version,
      most: 8,
      empty: "No version was announced: workers serve the model that they booted with.",
    });
    this.node = section("versions", "Policy versions", this.table.node);
  }

  update(fleet) {
    this.fleet = fleet;
    this.table.update(fleet.versions);
  }

  #announced() {
    return {
      title: "Announced",
      number: true,
      set: (cell, row) => setMoment(cell, this.fleet.read_at - row.announced_s_ago, `${age(row.announced_s_ago)} ago`),
    };
  }

  #served() {
    return {
      title: "Served by",
      make: (cell) => cell.append(el("span"), el("span", { class: "why bad" })),
      set: (cell, row) => {
        const live = this.fleet.workers.filter(isThere).length;
        const number = row.served_by.length;
        const isNewest = row === newestVersion(this.fleet);
        const all = `of ${many(live, "worker")}`;
        const served = isNewest ? `${count(number)} ${all}` : number ? many(number, "worker") : "nobody";
        const prepared = row.prepared_by ?? [];
        setText(cell.children[0], row.waits_for ? `not active, prepared by ${count(prepared.length)} ${all}` : served);
        setTitle(cell.children[0], (row.waits_for ? prepared : row.served_by).join(", "));
        setClass(cell.children[0], isNewest && number < live ? "mark half warn" : number ? "mark disc good" : "");
        setText(
          cell.children[1],
          row.refused_by.length ? `refused by ${listed(row.refused_by.map((name) => start(name, 40)))}` : "",
        );
        setTitle(cell.children[1], this.#whyRefused(row));
      },
    };
  }

  #whyRefused(row) {
    const refusing = this.fleet.workers.find((worker) => row.refused_by.includes(worker.consumer));
    return refusing?.report.policy_error ?? "";
  }

  #reached() {
    return {
      title: "Reached all in",
      number: true,
      about: "From its activation until every live worker served it, as far as this server saw it",
      set: (cell, row) => setText(cell, row.reached_all_s == null ? "–" : duration(row.reached_all_s)),
    };
  }
}

const version = {
  title: "Version",
  make: (cell) => cell.append(el("span"), el("span", { class: "aside" })),
  set: (cell, row) => {
    setText(cell.children[0], String(row.version));
    setText(cell.children[1], start(row.source, 20));
    setTitle(cell.children[1], `${row.source}: ${row.location}`);
  },
};
