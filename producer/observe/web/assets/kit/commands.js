// Commands for a terminal, as they work for this queue.

import { el } from "./dom.js";

// The flags that name this queue.
export function flagsOf({ policy, redis, partitions }) {
  const flags = ["--policy", quoted(policy), "--redis", quoted(redis)];
  return [...flags, ...(partitions > 1 ? ["--partitions", String(partitions)] : [])].join(" ");
}

// A step of a list: what to do, and the command that does it.
export function step(words, command) {
  return el("li", {}, el("span", { text: words }), el("pre", {}, el("code", { text: command })));
}

// For a POSIX shell.
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
