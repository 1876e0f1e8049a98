// The button that changes between the system's theme, light and dark, and remembers it.

import { setText } from "./dom.js";

const STORED = "rollstream-theme"; // theme.js reads it
const WORDS = { "": "as the system", light: "light", dark: "dark" };

export function startThemeSwitch(button) {
  const root = document.documentElement;
  const show = () => {
    setText(button, `Theme: ${WORDS[root.dataset.theme ?? ""]}`);
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    const names = Object.keys(WORDS);
    const next = names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    remember(next);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

function remember(theme) {
  try {
    if (theme) localStorage.setItem(STORED, theme);
    else localStorage.removeItem(STORED);
  } catch {
    // storage may be forbidden: the theme then lasts as long as the page
  }
}
