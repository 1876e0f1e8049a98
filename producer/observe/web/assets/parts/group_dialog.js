// One group whole: its prompt, its completions as ids and as text, and how its job was delivered.

import { get } from "../kit/api.js";
import { batchPath } from "./batches.js";
import { el } from "../kit/dom.js";
import { FINISHES, meaningOf } from "../kit/meanings.js";
import { count, listed, many } from "../kit/words.js";

const MOST_DELIVERIES = 1_000; // whatever a ledger says

export class GroupDialog {
  constructor({ batchId, session }) {
    Object.assign(this, { batchId, session });
  }

  async open(number) {
    const body = el("div", { class: "stack" }, el("p", { text: "Reading …" }));
    const heading = el("h2", { id: "group-title", text: `Group ${number}` });
    const close = el("button", { type: "button", text: "Close", autofocus: true, onclick: () => dialog.close() });
    const dialog = el(
      "dialog",
      { class: "wide", "aria-labelledby": heading.id },
      el("div", { class: "titled" }, heading, close),
      body,
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    try {
      body.replaceChildren(...parts(await get(`/api${batchPath(this.batchId)}/groups/${number}`)));
    } catch (error) {
      body.replaceChildren(el("p", { class: "mark cross bad", text: error.message }));
    }
  }
}

function parts(group) {
  const found = [el("p", { text: deliveryWords(group) })];
  if (group.message)
    found.push(
      el("p", { class: "mark cross bad", text: [group.code, group.field, group.message].filter(Boolean).join(": ") }),
    );
  if (group.are_ids_cut)
    found.push(
      el("p", { class: "mark triangle warn", text: "There are too many ids for one page: the rest is left out." }),
    );
  if (group.prompt_token_ids)
    found.push(sequence(`Prompt, ${many(group.prompt_length, "token")}`, group.prompt_text, group.prompt_token_ids));
  for (const one of group.completions) found.push(sequence(completionWords(one), one.text, one.token_ids));
  return found;
}

// What the ledger kept of the deliveries: which won, and whether the workers of those before it lived.
function deliveryWords({ worker, entry_id: entry, delivery, lived }) {
  if (delivery == null) return "No worker has answered it.";
  const earlier = Array.from({ length: Math.min(delivery - 1, MOST_DELIVERIES) }, (_, place) => place + 1);
  const died = earlier.filter((one) => !lived.includes(one));
  const before = [
    died.length ? `in ${one(died)} its worker died or hung` : "",
    lived.length ? `${one(lived)} ended though its worker lived (it drained, or Redis was away)` : "",
  ].filter(Boolean);
  const history = before.length ? ` Before it: ${before.join("; ")}.` : "";
  const won = `Answered by ${worker || "an unnamed worker"} in delivery ${delivery} of entry ${entry}.`;
  return `${won}${history} More about deliveries is not kept.`;
}

function one(deliveries) {
  return `${deliveries.length === 1 ? "delivery" : "deliveries"} ${listed(deliveries.map(String), 6)}`;
}

function completionWords(completion) {
  const { sample, length, finish_reason: reason, stop_reason: stop, versions, resumed_at: resumed } = completion;
  const meaning = meaningOf(FINISHES, reason) || reason;
  const by = stop == null ? "" : ` (${JSON.stringify(stop)})`;
  const spans = versions.map(([version, tokens]) =>
    versions.length > 1 ? `${count(tokens)} under version ${version}` : `version ${version}`,
  );
  const on = resumed ? `, gone on with by a later delivery after ${many(resumed, "token")}` : "";
  return `Completion ${sample}, ${many(length, "token")}, ${meaning}${by}, ${listed(spans, 5)}${on}`;
}

function sequence(title, text, ids) {
  return el(
    "section",
    { "aria-label": title },
    el("h3", { text: title }),
    text == null ? null : el("pre", { class: "text", text }),
    ids == null ? null : el("pre", { class: "ids", text: ids.join(" ") }),
  );
}
