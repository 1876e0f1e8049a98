// What to do where there is nothing to see: how to start a worker, and how to submit.

import { flagsOf, step } from "../kit/commands.js";
import { el, section, setHidden } from "../kit/dom.js";

export class Start {
  constructor(session) {
    const flags = flagsOf(session);
    this.worker = step("Start a worker", `rollstream-worker ${flags} --model /path/to/model`);
    this.batch = step(
      "Submit a batch",
      `echo '{"prompt_token_ids": [1, 2, 3]}' | rollstream submit - ${flags} --max-new-tokens 64`,
    );
    const doctor = step("If something does not work, ask", `rollstream doctor ${flags}`);
    this.node = section("start", "Start here", el("ol", { class: "steps" }, this.worker, this.batch, doctor));
    this.node.hidden = true;
  }

  update(fleet) {
    setHidden(this.worker, fleet.workers.length > 0);
    setHidden(this.batch, fleet.num_batches > 0);
    setHidden(this.node, fleet.workers.length > 0 && fleet.num_batches > 0);
  }
}
