// What an operator may do here, if the server allows it: every action asks first and says what came of it.

import { post } from "../kit/api.js";
import { el, setClass, setHidden } from "../kit/dom.js";
import { batchPath } from "./batches.js";
import { many, start } from "../kit/words.js";

export class Actions {
  constructor({ session, said }) {
    Object.assign(this, { session, said });
  }

  // `about` says what it acts on, where several buttons have the same label.
  button(label, run, about = null) {
    const said = about && start(about, 200);
    return el("button", {
      type: "button",
      class: "action",
      text: label,
      title: said,
      "aria-label": said,
      onclick: run,
    });
  }

  pause() {
    this.#ask({
      title: "Pause the whole queue?",
      text:
        "Workers finish the jobs that they hold and take no others until somebody resumes. Batches can still be " +
        "submitted.",
      yes: "Pause",
      path: "/api/pause",
      done: (told) => [told.changed ? "The queue is paused." : "The queue was paused already."],
    });
  }

  resume() {
    this.#ask({
      title: "Resume the queue?",
      text: "Workers take jobs again at once.",
      yes: "Resume",
      path: "/api/resume",
      done: (told) => [told.changed ? "The queue goes on." : "The queue was not paused."],
    });
  }

  drain(worker) {
    this.#ask({
      title: "Drain this worker?",
      subject: worker,
      text:
        "It takes no more jobs, finishes what it can within its grace period, gives the rest back and ends. Nothing " +
        "here starts it again.",
      yes: "Drain",
      path: `/api/workers/${encodeURIComponent(worker)}/drain`,
      done: () => [`${start(worker)} was asked to drain.`],
    });
  }

  cancel(batchId) {
    this.#ask({
      title: "Cancel this batch?",
      subject: batchId,
      text:
        "Groups without an answer are answered with the error “cancelled”, running ones too. Results that are there " +
        "stay. This cannot be undone.",
      yes: "Cancel the batch",
      path: `/api/batches/${encodeURIComponent(batchId)}/cancel`,
      done: (told) => [`${start(batchId)} is cancelled: ${many(told.cancelled, "group")} had no answer yet.`],
    });
  }

  requeue({ partition, letter_id: letterId }) {
    this.#ask({
      title: "Queue this job again?",
      subject: `${partition}/${letterId}`,
      text:
        "It becomes a batch of its own, under the version that is served now, and the dead letter goes. If the job " +
        "kills workers, it will do so again.",
      yes: "Queue again",
      path: `/api/letters/${partition}/${encodeURIComponent(letterId)}/requeue`,
      done: (told) => [
        "Queued again as ",
        el("a", { href: batchPath(told.batch_id), text: start(told.batch_id) }),
        ".",
      ],
    });
  }

  // A native dialog keeps the focus inside and gives it back; Escape is no. `subject` is what is acted on: the server
  // wants to hear its name again.
  #ask({ title, subject, text, yes, path, done }) {
    const heading = el("h2", { id: "question", text: title });
    const no = el("button", { type: "button", text: "No", autofocus: true, onclick: () => dialog.close() });
    const sure = el("button", { type: "button", class: "sure", text: yes, onclick: () => dialog.close("yes") });
    const dialog = el(
      "dialog",
      { "aria-labelledby": heading.id },
      heading,
      subject ? el("p", { class: "subject", text: start(subject, 400) }) : null,
      el("p", { text }),
      el("div", { class: "buttons" }, no, sure),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (dialog.returnValue === "yes") this.#act(path, subject, done);
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  async #act(path, subject, done) {
    this.#say("calm", "Asking …");
    try {
      const told = await post(path, subject ? { confirm: subject } : {}, this.session.csrf);
      this.#say("good", ...done(told));
    } catch (error) {
      this.#say("bad", error.message);
    }
  }

  #say(level, ...parts) {
    const close = el("button", { type: "button", text: "Close", onclick: () => setHidden(this.said, true) });
    setClass(this.said, `said ${level}`);
    setHidden(this.said, false); // first, for what is hidden is not read out
    this.said.replaceChildren(el("span", {}, ...parts), close);
  }
}
