// A table whose rows are kept by key and changed in place, sorted by any column, cut to a length until asked for all.

import { arrange, el, setHidden, setText } from "./dom.js";
import { compareNames, count } from "./words.js";

const CARDS = 6; // of so many a phone has screens full

// A column: `title`; `make(cell, row)` puts into a new cell what `set(cell, row)` changes; `sort(row)` gives what rows
// are sorted by (numbers largest first); `number` for columns of numbers; `about` says what it means; `unseen`
// hides the title from eyes. `cards`: on a phone each row is a card, in which columns of the class `line` have a line.
export class Table {
  constructor({ caption, columns, key, order = null, most = 50, empty = "None.", cards = false }) {
    const isPhone = cards && matchMedia("(max-width: 720px)").matches;
    Object.assign(this, { columns, key, order, most: isPhone ? Math.min(most, CARDS) : most });
    this.rows = new Map();
    this.data = [];
    this.sorted = null; // {column, descending} once somebody asked
    this.all = false;
    this.body = el("tbody", { role: "rowgroup" });
    this.heads = columns.map((column) => this.#head(column));
    const headRow = el("tr", { role: "row" }, ...this.heads);
    this.table = el(
      "table",
      { role: "table" },
      el("caption", { class: "unseen", text: caption }),
      el("thead", { role: "rowgroup" }, headRow),
      this.body,
    );
    this.more = el("button", { class: "more", type: "button", onclick: () => this.#toggleAll() });
    this.none = el("p", { class: "none", text: empty });
    this.node = el("div", { class: cards ? "table cards" : "table" }, this.table, this.more, this.none);
    this.update([]);
  }

  update(data) {
    this.data = data;
    const sorted = this.#inOrder(data);
    const shown = this.all ? sorted : sorted.slice(0, this.most);
    const nodes = shown.map((row) => this.#row(row));
    const keys = new Set(shown.map((row) => String(this.key(row))));
    for (const key of this.rows.keys()) if (!keys.has(key)) this.rows.delete(key);
    arrange(this.body, nodes);
    setHidden(this.table, data.length === 0);
    setHidden(this.none, data.length > 0);
    setHidden(this.more, data.length <= this.most);
    setText(this.more, this.all ? `Show the first ${count(this.most)} only` : `Show all ${count(data.length)}`);
  }

  #toggleAll() {
    this.all = !this.all;
    this.update(this.data);
  }

  #head(column) {
    const head = el("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null });
    if (!column.sort) {
      head.append(el("span", { text: column.title, title: column.about, class: column.unseen ? "unseen" : null }));
      return head;
    }
    const sort = () => this.#sortBy(column, head);
    head.append(
      el("button", { type: "button", class: "sort", text: column.title, title: column.about, onclick: sort }),
    );
    return head;
  }

  // First as is useful, then the other way round, then back to the table's own order.
  #sortBy(column, head) {
    const again = this.sorted?.column === column;
    if (!again) this.sorted = { column, descending: Boolean(column.number), turned: false };
    else if (!this.sorted.turned) this.sorted = { column, descending: !this.sorted.descending, turned: true };
    else this.sorted = null;
    for (const other of this.heads) other.removeAttribute("aria-sort");
    if (this.sorted) head.setAttribute("aria-sort", this.sorted.descending ? "descending" : "ascending");
    this.update(this.data);
  }

  #inOrder(data) {
    if (!this.sorted) return this.order ? [...data].sort(this.order) : data;
    const { column, descending } = this.sorted;
    const sign = descending ? -1 : 1;
    return data
      .map((row) => [column.sort(row), row])
      .sort(([one], [other]) => compareUnknownLast(one, other, sign))
      .map(([, row]) => row);
  }

  #row(row) {
    const key = String(this.key(row));
    let node = this.rows.get(key);
    if (!node) {
      node = el("tr", { role: "row" }, ...this.columns.map((column, place) => makeCell(column, place, row)));
      this.rows.set(key, node);
    }
    this.columns.forEach((column, place) => column.set(node.cells[place], row));
    return node;
  }
}

function makeCell(column, place, row) {
  const first = place === 0;
  const cell = el(first ? "th" : "td", {
    role: first ? "rowheader" : "cell",
    class: [column.number ? "number" : "", column.class ?? ""].join(" ").trim() || null,
    data: { label: column.unseen ? "" : column.title },
  });
  if (first) cell.scope = "row";
  column.make?.(cell, row);
  return cell;
}

function compareUnknownLast(one, other, sign) {
  if (one == null || other == null) return (one == null) - (other == null);
  if (typeof one === "number") return sign * (one - other);
  return sign * compareNames(String(one), String(other));
}
