// The colours: those of the system, or the others if that was chosen. A classic script in the head,
// so that the page is never drawn in the wrong ones first.

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const store = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("penwright.theme");
      if (value === null) localStorage.removeItem("penwright.theme");
      else localStorage.setItem("penwright.theme", value);
    } catch {
      // Storage can be forbidden: then the choice lasts as long as the page.
    }
    return null;
  };
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const chosen = store();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      const theme = dark() ? "light" : "dark";
      root.dataset.theme = theme;
      store(theme === (system.matches ? "dark" : "light") ? null : theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
