// The page of the whole fleet.

import { Errors, Staleness } from "./parts/answers.js";
import { Batches } from "./parts/batches.js";
import { Chart } from "./parts/chart.js";
import { el, setHidden } from "./kit/dom.js";
import { speeds } from "./kit/facts.js";
import { Figures } from "./parts/figures.js";
import { Letters } from "./parts/letters.js";
import { Notes } from "./parts/notes_list.js";
import { Start } from "./parts/start.js";
import { Versions } from "./parts/versions.js";
import { Workers } from "./parts/workers.js";

export class Overview {
  constructor({ session, actions }) {
    this.notes = new Notes();
    this.start = new Start(session);
    const chart = new Chart({ id: "speed", title: "Tokens/s over the last hour", unit: "tok/s", read: speeds });
    const parts = {
      figures: new Figures(),
      chart,
      staleness: new Staleness(),
      workers: new Workers({ actions }),
      batches: new Batches({ actions }),
      versions: new Versions(),
      errors: new Errors(),
      letters: new Letters(),
    };
    this.parts = Object.values(parts);
    this.body = el(
      "div",
      { class: "stack", hidden: true },
      parts.figures.node,
      el("div", { class: "pair" }, chart.node, parts.staleness.node),
      parts.workers.node,
      parts.batches.node,
      el("div", { class: "pair even" }, parts.versions.node, parts.errors.node),
      parts.letters.node,
    );
    const title = el("h1", { class: "unseen", text: `Policy ${session.policy}` });
    this.node = el("div", { class: "stack" }, title, this.notes.node, this.start.node, this.body);
  }

  update({ fleet }) {
    if (!fleet) return;
    const isNew = !fleet.workers.length && !fleet.num_batches && !fleet.num_letters;
    setHidden(this.body, false);
    this.notes.update(fleet);
    this.start.update(fleet);
    this.body.classList.toggle("nothing-yet", isNew);
    for (const part of this.parts) part.update(fleet);
  }
}
