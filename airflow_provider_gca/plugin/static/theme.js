// before anything is drawn: light or dark as Airflow is set, and as it changes there
(() => {
  const follow = () => {
    let chosen = null;
    try { chosen = localStorage.getItem("theme"); } catch { /* no storage: as the system is */ }
    const theme = chosen === "light" || chosen === "dark" ? chosen : "light dark";
    document.documentElement.style.colorScheme = theme;
    for (const frame of document.querySelectorAll("iframe")) {
      try { frame.contentDocument.documentElement.style.colorScheme = theme; } catch { /* not ours */ }
    }
  };
  follow();
  addEventListener("storage", follow);
  addEventListener("load", follow, true);
})();
