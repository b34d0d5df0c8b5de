// before anything is drawn: light or dark as Airflow is set, and as it changes there
(() => {
  const follow = () => {
    let chosen = null;
    try { chosen = localStorage.getItem("theme"); } catch { /* no storage: as the system is */ }
    const known = chosen === "light" || chosen === "dark";
    document.documentElement.style.colorScheme = known ? chosen : "light dark";
    // a report is of an origin of its own and is told behind the #
    for (const frame of document.querySelectorAll("iframe[data-src]")) {
      const wanted = frame.dataset.src + (known ? `#${chosen}` : "");
      if (frame.getAttribute("src") !== wanted) frame.src = wanted;
    }
  };
  follow();
  for (const event of ["storage", "DOMContentLoaded", "gca-shown"]) addEventListener(event, follow);
})();
