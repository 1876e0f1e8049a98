// What the last hour's answers were: how stale, and which errors. Tables with bars, so that they need no other text.

import { bar, el, section, setBar, setClipped, setText, setTitle } from "../kit/dom.js";
import { sum, sumsOf } from "../kit/facts.js";
import { ERRORS, meaningOf } from "../kit/meanings.js";
import { Table } from "../kit/table.js";
import { count, many, percent, rate, short } from "../kit/words.js";

const MOST_STALE = 64;

// Bars of one colour, the longest of which is the largest number.
function share(title, part) {
  return {
    title,
    number: true,
    class: "measure",
    make: (cell) => cell.append(el("span"), bar()),
    set: (cell, row) => {
      const { groups, all } = row[part];
      setText(
        cell.children[0],
        all ? `${groups < 10_000 ? count(groups) : short(groups)} · ${percent(groups, all)}` : "–",
      );
      setTitle(cell, `${count(groups)} of ${count(all)} groups`);
      setBar(cell.children[1], groups, all);
    },
  };
}

export class Staleness {
  constructor() {
    this.words = el("p", { class: "now" });
    this.table = new Table({
      caption: "Groups by how many versions they were behind when they were published",
      columns: [
        { title: "Versions behind", set: (cell, row) => setText(cell, behindWords(row.behind)) },
        share("Last 10 min", "recent"),
        share("Last hour", "hour"),
      ],
      key: (row) => row.behind,
      most: 10,
      empty: "No group was answered in the last hour.",
    });
    this.node = section("staleness", "Staleness of results", this.words, this.table.node);
  }

  update(fleet) {
    const [recent, hour] = [sumsOf(fleet, 10).staleness, sumsOf(fleet, 60).staleness];
    const behind = [...hour.keys()].map(Number).sort((one, other) => one - other);
    const [ofRecent, ofHour] = [sum([...recent.values()]), sum([...hour.values()])];
    this.table.update(
      behind.map((one) => ({
        behind: one,
        recent: { groups: recent.get(String(one)) ?? 0, all: ofRecent },
        hour: { groups: hour.get(String(one)) ?? 0, all: ofHour },
      })),
    );
    setText(this.words, freshWords(ofRecent ? recent : hour, ofRecent ? "last 10 min" : "last hour"));
  }
}

function behindWords(behind) {
  if (behind === 0) return "0 (fresh)";
  return behind >= MOST_STALE ? `${MOST_STALE} or more` : String(behind);
}

function freshWords(staleness, when) {
  const all = sum([...staleness.values()]);
  if (!all) return "";
  const mean = sum([...staleness].map(([behind, groups]) => Number(behind) * groups)) / all;
  const worst = Math.max(...[...staleness.keys()].map(Number));
  if (worst === 0) return `All results of the ${when} were fresh: ${many(all, "group")}.`;
  const fresh = `${percent(staleness.get("0") ?? 0, all)} of the ${when}'s groups were fresh`;
  return `${fresh}; ${mean < 0.1 ? "less than 0.1" : rate(mean)} versions behind in the mean, ${worst} at worst.`;
}

export class Errors {
  constructor() {
    this.table = new Table({
      caption: "Groups with an error, by its code",
      columns: [
        {
          title: "Error",
          make: (cell) => cell.append(el("code"), el("span", { class: "why" })),
          set: (cell, row) => {
            setClipped(cell.children[0], row.code, 64);
            setText(cell.children[1], meaningOf(ERRORS, row.code));
          },
        },
        { title: "10 min", number: true, set: (cell, row) => setText(cell, count(row.recent)) },
        { title: "Hour", number: true, set: (cell, row) => setText(cell, count(row.hour)) },
      ],
      key: (row) => row.code,
      order: (one, other) => other.hour - one.hour,
      most: 8,
      empty: "No group got an error in the last hour.",
    });
    this.node = section("errors", "Errors by code", this.table.node);
  }

  update(fleet) {
    const [recent, hour] = [sumsOf(fleet, 10).errors, sumsOf(fleet, 60).errors];
    this.table.update([...hour].map(([code, groups]) => ({ code, hour: groups, recent: recent.get(code) ?? 0 })));
  }
}
