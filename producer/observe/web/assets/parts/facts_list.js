// Names and what they have, in two columns.

import { arrange, el, setClipped } from "../kit/dom.js";

export class Facts {
  constructor() {
    this.node = el("dl", { class: "facts" });
    this.values = new Map();
  }

  // Pairs of a name and a text or an element; a text that changes is changed in place.
  update(pairs) {
    const nodes = pairs.flatMap(([name, value]) => {
      const [term, place] = this.values.get(name) ?? [el("dt", { text: name }), el("dd")];
      this.values.set(name, [term, place]);
      if (typeof value === "string") setClipped(place, value);
      else place.replaceChildren(value);
      return [term, place];
    });
    arrange(this.node, nodes);
  }
}
