// sorts a table by a column, narrows it to rows that hold a text, names marks of pictures, and opens details before printing
document.documentElement.classList.add("scripted");
// a page that holds this one in a frame says light or dark behind the #
const dressed = () => { if (/^#(light|dark)$/.test(location.hash)) document.documentElement.style.colorScheme = location.hash.slice(1); };
dressed();
addEventListener("hashchange", dressed);
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const order = new Intl.Collator(undefined, { numeric: true });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
      rows.sort((a, b) => (down ? -1 : 1) * order.compare(key(a), key(b)));
      body.append(...rows);
    });
  });
  const tools = document.querySelector(`[data-tools="${table.id}"]`);
  if (tools === null) continue;
  const words = tools.querySelector("input[type=search]");
  const flagged = tools.querySelector("input[type=checkbox]");
  const narrow = () => {
    const wanted = words.value.trim().toLowerCase();
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted) || (flagged !== null && flagged.checked && !("flagged" in row.dataset));
    }
  };
  words.addEventListener("input", narrow);
  if (flagged !== null) flagged.addEventListener("change", narrow);
}
// says which mark of a picture is nearest to the pointer or finger
for (const plot of document.querySelectorAll("[data-tips]")) {
  const picture = plot.querySelector("svg");
  const told = picture.querySelector(".told");
  const marks = Array.from(picture.querySelectorAll("[data-tip]"), (mark) => ({ mark, x: mark.cx.baseVal.value, y: mark.cy.baseVal.value }));
  let near = null;
  const tell = (event) => {
    const box = picture.getBoundingClientRect();
    const scale = picture.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    const far = (place) => Math.hypot(place.x - x, place.y - y);
    const found = marks.reduce((best, place) => (best === null || far(place) < far(best) ? place : best), null);
    if (found === null || far(found) > 20) return;
    if (near !== null) near.classList.remove("near");
    near = found.mark;
    near.classList.add("near");
    told.textContent = near.dataset.tip;
  };
  picture.addEventListener("pointermove", tell);
  picture.addEventListener("pointerdown", tell);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
