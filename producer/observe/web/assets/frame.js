// What every page has: the header, the first line, the footer.

import { el, setClass, setClipped, setHidden, setText, setTitle } from "./kit/dom.js";
import { headline } from "./parts/headline.js";
import { clock, count, duration, moment } from "./kit/words.js";

const MARKS = { good: "disc", calm: "ring", warn: "triangle", bad: "cross" };

function byId(id) {
  return document.getElementById(id);
}

export class Frame {
  constructor({ session, actions }) {
    this.session = session;
    this.level = null;
    setClipped(byId("policy"), session.policy);
    setClipped(byId("place"), session.redis);
    if (actions) {
      this.pause = actions.button("Pause", () => actions.pause());
      this.resume = actions.button("Resume", () => actions.resume());
      byId("whole-queue").append(this.pause, this.resume);
    }
  }

  update(seen) {
    const { level, text, why } = headline(seen);
    setClass(byId("headline"), `headline ${level}`);
    setClass(byId("headline-text"), `mark ${MARKS[level]} ${level}`);
    setText(byId("headline-text"), text);
    setText(byId("headline-why"), why);
    setHidden(byId("headline-why"), !why);
    document.body.classList.toggle("stale", seen.lost != null || seen.down != null);
    this.#announce(level, text);
    if (seen.fleet) this.#reading(seen);
  }

  // Screen readers hear the first line when how it is has changed, not each number of it.
  #announce(level, text) {
    if (level === this.level) return;
    this.level = level;
    setText(byId("announced"), text);
    document.title = `${level === "bad" ? "✕ " : ""}${this.session.policy} · Rollstream`;
  }

  #reading({ fleet, down, lost }) {
    const isLive = lost == null && !down;
    setText(byId("reading"), `${isLive ? "live" : "as of"} ${clock(fleet.read_at)}`);
    setTitle(byId("reading"), moment(fleet.read_at));
    setClass(byId("reading"), `reading mark ${isLive ? "disc good" : "cross bad"}`);
    if (this.pause) {
      setHidden(this.pause, fleet.paused);
      setHidden(this.resume, !fleet.paused);
    }
    const cost = `The last reading took ${count(fleet.commands)} commands and ${duration(fleet.took_s)}.`;
    setText(byId("footer"), `Rollstream ${this.session.version} · times are this browser's · ${cost}`);
  }
}

// A whole page that only says something: what was asked for is not there.
export function messagePage(title, ...texts) {
  const lines = texts.map((text) => el("p", { text }));
  const back = el("p", {}, el("a", { href: "/", text: "To the overview" }));
  return el("section", { class: "panel stack" }, el("h1", { text: title }), ...lines, back);
}
