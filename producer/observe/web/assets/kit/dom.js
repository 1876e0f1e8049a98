// Elements are made and changed here, always through properties and text nodes: a text from Redis is never markup.

import { moment, start } from "./words.js";

const MOST_IN_TITLE = 2_000;

// An element with properties, `on…` listeners, `data`, and what only an attribute can say (role, aria-…, scope).
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value == null) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// Changing only what differs keeps layout and screen readers quiet.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setTitle(node, text) {
  const title = start(text, MOST_IN_TITLE);
  if (node.title !== title) node.title = title;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// A text that its place may cut: the whole of it is in the title.
export function setClipped(node, text, most = 400) {
  setText(node, start(text, most));
  setTitle(node, text);
}

// A relative time with the absolute one on hover.
export function setMoment(node, unix, text) {
  setText(node, text);
  setTitle(node, moment(unix));
}

// A bar beside a text that says the same, so it is hidden from screen readers.
export function bar(kind = "") {
  return el("span", { class: `bar ${kind}`, "aria-hidden": "true" }, el("span", { class: "fill" }));
}

export function setBar(node, part, whole) {
  const share = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0;
  const width = `${(100 * share).toFixed(1)}%`;
  if (node.firstChild.style.width !== width) node.firstChild.style.width = width;
}

// Make `parent` hold exactly these nodes in this order; those in place already are not touched.
export function arrange(parent, nodes) {
  const focused = document.activeElement;
  const kept = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!kept.has(child)) child.remove();
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

// A section of the page under a heading, which names it for screen readers.
export function section(id, title, ...children) {
  const heading = el("h2", { id: `${id}-title`, text: title });
  return el("section", { id, class: "panel", "aria-labelledby": heading.id }, heading, ...children);
}
