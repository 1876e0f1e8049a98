// The page of one batch: how far it is, what it asked for, and its groups, a hundred at a time.

import { bar, el, section, setBar, setClass, setHidden, setMoment, setText } from "./kit/dom.js";
import { Facts } from "./parts/facts_list.js";
import { batchPath } from "./parts/batches.js";
import { messagePage } from "./frame.js";
import { GroupDialog } from "./parts/group_dialog.js";
import { Groups } from "./parts/groups.js";
import { Refresh } from "./kit/refresh.js";
import { about, age, clock, count, many, percent, start } from "./kit/words.js";

const PAGE = 100;

export class BatchPage {
  constructor(batchId, { session, actions }) {
    this.batchId = batchId;
    this.fleet = null;
    const asked = Number(new URLSearchParams(location.search).get("first"));
    this.first = Number.isSafeInteger(asked) && asked > 0 ? asked : 0;
    this.#build(session, actions);
    this.refresh = new Refresh({
      path: () => `/api${batchPath(batchId)}?first=${this.first}&count=${PAGE}`,
      show: (batch) => this.#show(batch),
      fail: (error) => this.#fail(error),
    });
  }

  #build(session, actions) {
    this.state = el("p", { class: "mark ring calm", text: "Reading …" });
    this.bar = bar("large");
    this.cancel = actions?.button("Cancel the batch", () => actions.cancel(this.batchId));
    if (this.cancel) this.cancel.hidden = true;
    const title = el(
      "h1",
      {},
      "Batch ",
      el("span", { class: "name", text: start(this.batchId, 400), title: this.batchId }),
    );
    this.problem = el("p", { class: "mark triangle warn", hidden: true });
    this.facts = new Facts();
    this.config = new Facts();
    const group = new GroupDialog({ batchId: this.batchId, session });
    this.groups = new Groups({ open: (number) => group.open(number) });
    this.back = el("a", { text: "Previous 100" });
    this.next = el("a", { text: "Next 100" });
    this.range = el("span");
    this.pages = el("nav", { class: "buttons", "aria-label": "Pages of groups" }, this.back, this.range, this.next);
    this.body = el(
      "div",
      { class: "stack", hidden: true },
      el(
        "div",
        { class: "pair even" },
        section("facts", "Batch", this.facts.node),
        section("config", "Generation config", this.config.node),
      ),
      section("groups", "Groups", this.groups.node, this.pages),
    );
    const head = el("div", { class: "titled" }, title, this.cancel);
    this.node = el("div", { class: "stack" }, head, this.state, this.bar, this.problem, this.body);
  }

  update({ fleet, down, lost }) {
    this.fleet = fleet;
    if (!down && lost == null) this.refresh.tick();
  }

  #show(batch) {
    setHidden(this.body, false);
    const goesOn = batch.done < batch.num_groups;
    setText(this.state, this.#stateWords(batch, goesOn));
    setClass(this.state, `mark ${batch.cancelled ? "cross calm" : goesOn ? "half calm" : "disc good"}`);
    setBar(this.bar, batch.done, batch.num_groups);
    if (this.cancel) setHidden(this.cancel, !goesOn || batch.cancelled);
    setHidden(this.problem, !batch.problem);
    setText(this.problem, batch.problem);
    this.facts.update(factsOf(batch));
    this.config.update(Object.entries(batch.config).map(([name, value]) => [name, JSON.stringify(value)]));
    this.groups.update(batch);
    this.#showPages(batch);
    return goesOn || Boolean(batch.problem);
  }

  #stateWords(batch, goesOn) {
    const { done: answered, num_groups: all } = batch;
    const done = `${count(answered)} of ${many(all, "group")} answered, ${percent(answered, all)}`;
    if (batch.cancelled) return `Cancelled: ${done}.`;
    if (!goesOn) return `Done: ${many(all, "group")}.`;
    const left = this.fleet?.batches.find((one) => one.batch_id === this.batchId)?.left_s;
    return `Under way: ${done}${left == null ? "" : `, ${about(left)} left`}.`;
  }

  #showPages({ first, groups, num_groups: all }) {
    const last = first + groups.length;
    setText(
      this.range,
      groups.length ? `${count(first)} to ${count(last - 1)} of ${count(all)}` : `none from ${count(first)} on`,
    );
    setHidden(this.pages, first === 0 && last >= all);
    setHidden(this.back, first === 0);
    setHidden(this.next, last >= all);
    this.back.href = `?first=${Math.max(0, first - PAGE)}`;
    this.next.href = `?first=${last}`;
  }

  #fail(error) {
    if (error.status === 404) {
      this.refresh.goesOn = false;
      this.node.replaceChildren(
        messagePage(
          "There is no such batch",
          error.message,
          "Results go a day after a batch was done, unless workers were told otherwise.",
        ),
      );
      return;
    }
    setHidden(this.problem, false);
    setText(this.problem, error.message);
  }
}

function factsOf(batch) {
  const submitted = el("span");
  setMoment(submitted, batch.submitted_at, `${clock(batch.submitted_at)}, ${age(batch.submitted_s_ago)} ago`);
  const facts = [
    ["Submitted", submitted],
    ["Groups", count(batch.num_groups)],
    ["Jobs", count(batch.num_jobs)],
    ["Partition", String(batch.partition)],
    ["Adapter", batch.adapter ?? "none"],
  ];
  if (batch.replay_of) facts.push(["Repeats", el("a", { href: batchPath(batch.replay_of), text: batch.replay_of })]);
  if (batch.cancelled)
    facts.push(["Cancelled", batch.cancelled_s_ago == null ? "yes" : `${age(batch.cancelled_s_ago)} ago`]);
  return facts;
}
