// The page of one dead letter: what went wrong, what is known of the job, and what to do.

import { batchPath } from "./parts/batches.js";
import { flagsOf, step } from "./kit/commands.js";
import { el, section, setHidden, setMoment, setText } from "./kit/dom.js";
import { letterPath } from "./parts/letters.js";
import { Facts } from "./parts/facts_list.js";
import { messagePage } from "./frame.js";
import { Refresh } from "./kit/refresh.js";
import { age, bytes, clock, count, listed, start } from "./kit/words.js";

export class LetterPage {
  constructor(partition, letterId, { session, actions }) {
    this.name = `${partition}/${letterId}`;
    this.readAt = Date.now() / 1000;
    this.requeue = actions?.button("Queue again", () => actions.requeue({ partition, letter_id: letterId }));
    this.error = el("p", { class: "mark cross bad", text: "Reading …" });
    this.problem = el("p", { class: "mark triangle warn", hidden: true });
    this.facts = new Facts();
    this.config = new Facts();
    this.fields = new Facts();
    this.trace = el("pre", { class: "scroll", tabIndex: 0, "aria-label": "Traceback" });
    this.traceback = section("traceback", "Traceback", this.trace);
    this.configured = section("config", "Generation config", this.config.node);
    this.body = el(
      "div",
      { class: "stack", hidden: true },
      section("advice", "What to do", this.#advice(session)),
      this.traceback,
      el("div", { class: "pair even" }, section("facts", "The job", this.facts.node), this.configured),
      section("fields", "Fields of its entry", this.fields.node),
    );
    const title = el("h1", {}, "Dead letter ", el("span", { class: "name", text: start(this.name) }));
    this.node = el(
      "div",
      { class: "stack" },
      el("div", { class: "titled" }, title, this.requeue),
      this.error,
      this.problem,
      this.body,
    );
    this.refresh = new Refresh({
      path: () => `/api${letterPath(partition, letterId)}`,
      show: (letter) => this.#show(letter),
      fail: (error) => this.#fail(error),
    });
  }

  update({ fleet, down, lost }) {
    if (fleet) this.readAt = fleet.read_at;
    if (!down && lost == null) this.refresh.tick();
  }

  #advice(session) {
    const flags = flagsOf(session);
    this.why = el("p");
    const steps = el(
      "ol",
      { class: "steps" },
      step("Save the job's bytes and its error", `rollstream dead show ${this.name} ${flags} --payload job.msgpack`),
      step(
        "When the cause is mended: queue it again, as a batch of its own",
        `rollstream dead requeue ${this.name} ${flags}`,
      ),
      step("If nobody needs it: drop it", `rollstream dead drop ${this.name} ${flags}`),
    );
    return el("div", { class: "stack" }, this.why, steps);
  }

  #show(letter) {
    setHidden(this.body, false);
    setText(this.error, letter.error || "The letter does not say why the job was given up on.");
    setHidden(this.problem, !letter.problem);
    setText(this.problem, letter.problem);
    setText(this.why, adviceOf(letter));
    setText(this.trace, letter.traceback);
    setHidden(this.traceback, !letter.traceback);
    this.facts.update(this.#factsOf(letter));
    const config = Object.entries(letter.config).map(([name, value]) => [name, JSON.stringify(value)]);
    setHidden(this.configured, !config.length);
    this.config.update(config);
    this.fields.update(letter.fields.length ? letter.fields : [["none", "the letter has none"]]);
    return false;
  }

  #factsOf(letter) {
    const facts = [
      ["Batch", letter.batch_id ? el("a", { href: batchPath(letter.batch_id), text: letter.batch_id }) : "unknown"],
      ["Groups", letter.groups ? `${count(letter.groups[0])} to ${count(letter.groups[1] - 1)}` : "unknown"],
      ["Deliveries", `${count(letter.deliveries)}; which worker had each is not kept`],
      ["Last worker", letter.worker || "unknown"],
      ["Last delivered", this.#ago(letter.delivered_s_ago)],
      ["Given up", this.#ago(letter.buried_s_ago)],
      ["Entry", letter.entry_id || "unknown"],
      ["Job's bytes", bytes(letter.payload_bytes)],
    ];
    if (letter.prompt_lengths.length) facts.push(["Prompt lengths", listed(letter.prompt_lengths.map(String), 12)]);
    return facts;
  }

  #ago(seconds) {
    if (seconds == null) return "unknown";
    const node = el("span");
    setMoment(node, this.readAt - seconds, `${clock(this.readAt - seconds)}, ${age(seconds)} ago`);
    return node;
  }

  #fail(error) {
    if (error.status === 404) {
      this.refresh.goesOn = false;
      this.node.replaceChildren(
        messagePage("There is no such dead letter", error.message, "It may have been queued again or dropped."),
      );
      return;
    }
    setHidden(this.problem, false);
    setText(this.problem, error.message);
  }
}

function adviceOf(letter) {
  const answered = "Its groups got an error, so nobody waits for it.";
  if (letter.deliveries < 2) return `The error above says why the job was given up on. ${answered}`;
  const who = letter.worker ? `Look at the log of ${letter.worker}` : "Look at the logs of the workers";
  const taken = `Workers took the job ${count(letter.deliveries)} times, and the error above says how that ended.`;
  const cause =
    "what a worker lacks, such as memory, can be given to it; a prompt that kills its engine will do so again";
  return `${taken} ${who} at the time of the last delivery: ${cause}. ${answered}`;
}
