// The notes below the first line.

import { arrange, el, setClass, setHidden, setText } from "../kit/dom.js";
import { notes } from "./notes.js";

export class Notes {
  constructor() {
    this.list = el("ul");
    this.node = el("section", { class: "notes", "aria-label": "What to look at", hidden: true }, this.list);
  }

  update(fleet) {
    const found = notes(fleet);
    const items = found.map((note, place) => this.#item(note, this.list.children[place]));
    arrange(this.list, items);
    setHidden(this.node, !found.length);
  }

  #item(note, item = el("li", {}, el("a"), el("span"))) {
    const [link, plain] = item.children;
    const mark = { bad: "cross", warn: "triangle", calm: "ring" }[note.level];
    setClass(item, `mark ${mark} ${note.level}`);
    setHidden(link, !note.href);
    setHidden(plain, Boolean(note.href));
    if (note.href) link.href = note.href;
    setText(link, note.href ? note.text : "");
    setText(plain, note.href ? "" : note.text);
    return item;
  }
}
