// What to do where there is nothing to see: how to start a worker, and how to submit.

import { el, setHidden } from "./dom.js";

export class Start {
  constructor({ policy, redis, partitions }) {
    const flags = `--policy ${quoted(policy)} --redis ${quoted(redis)}${partitions > 1 ? ` --partitions ${partitions}` : ""}`;
    this.worker = step("Start a worker", `rollstream-worker ${flags} --model /path/to/model`);
    this.batch = step(
      "Submit a batch",
      `echo '{"prompt_token_ids": [1, 2, 3]}' | rollstream submit - ${flags} --max-new-tokens 64`,
    );
    const doctor = step("If something does not work, ask", `rollstream doctor ${flags}`);
    const heading = el("h2", { id: "start-title", text: "Start here" });
    const steps = el("ol", {}, this.worker, this.batch, doctor);
    this.node = el("section", { id: "start", class: "panel", "aria-labelledby": heading.id, hidden: true }, heading, steps);
  }

  update(fleet) {
    setHidden(this.worker, fleet.workers.length > 0);
    setHidden(this.batch, fleet.num_batches > 0);
    setHidden(this.node, fleet.workers.length > 0 && fleet.num_batches > 0);
  }
}

function step(words, command) {
  return el("li", {}, el("span", { text: words }), el("pre", {}, el("code", { text: command })));
}

// For a POSIX shell.
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
