// The theme that was chosen on the hub's pages, or the system's: set before anything is drawn.
const system = matchMedia("(prefers-color-scheme: dark)");

function find(): string {
  const chosen = localStorage.getItem("jupyterhub-bs-theme");
  if (chosen === "dark" || chosen === "light") return chosen;
  return system.matches ? "dark" : "light";
}

function show(): void {
  document.documentElement.dataset.bsTheme = find();
}

show();
system.addEventListener("change", show);
addEventListener("storage", show);
addEventListener("kbatch-theme", show);
