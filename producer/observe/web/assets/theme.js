// Runs before the first paint, so that a chosen theme does not flash; theme_switch.js changes it.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("rollstream-theme");
  } catch {
    // storage may be forbidden: then the system's theme is used
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
