// The start: who am I talking to, which page is this, and two changes of the page a second at most.

import { Actions } from "./parts/actions.js";
import { get } from "./kit/api.js";
import { BatchPage } from "./batch_page.js";
import { Frame, messagePage } from "./frame.js";
import { LetterPage } from "./letter_page.js";
import { Overview } from "./overview.js";
import { Stream } from "./kit/stream.js";
import { startThemeSwitch } from "./kit/theme_switch.js";

const LEAST_MS = 450; // between two changes of the page: readings come about twice a second
const RETRY_MS = 2_000;

startThemeSwitch(document.getElementById("theme"));

function start(session) {
  const actions = session.actions ? new Actions({ session, said: document.getElementById("said") }) : null;
  const frame = new Frame({ session, actions });
  const page = pageOf(location.pathname, { session, actions });
  document.getElementById("page").replaceChildren(page.node);
  const draw = onceASecond(() => {
    frame.update(stream.seen);
    page.update(stream.seen);
  });
  const back = async () => Object.assign(session, await get("/api/session"));
  const stream = new Stream({ changed: draw, back: () => back().catch(() => {}) });
  stream.open();
}

function pageOf(path, tools) {
  const [kind, ...names] = path.split("/").filter(Boolean).map(decodeURIComponent);
  if (!kind) return new Overview(tools);
  if (kind === "batches" && names.length === 1) return new BatchPage(names[0], tools);
  if (kind === "letters" && names.length === 2) return new LetterPage(names[0], names[1], tools);
  return { node: messagePage("There is no such page", path), update: () => {} };
}

// Calls that come sooner are put together; a hidden page waits until it is seen.
function onceASecond(draw) {
  let last = -Infinity;
  let timer = null;
  const now = () => {
    timer = null;
    last = performance.now();
    requestAnimationFrame(draw);
  };
  const soon = () => {
    if (document.hidden || timer != null) return;
    timer = setTimeout(now, Math.max(0, last + LEAST_MS - performance.now()));
  };
  document.addEventListener("visibilitychange", soon);
  return soon;
}

async function askSession() {
  for (;;) {
    try {
      return await get("/api/session");
    } catch (error) {
      document.getElementById("page").replaceChildren(messagePage("This page cannot be shown yet", error.message));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

start(await askSession());
