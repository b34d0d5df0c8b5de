// asking, cancelling, and a run that shows itself as it goes on; all else is rendered on the server
const POLL_MS = 15000;
const root = document.documentElement.dataset.root;

// a page inside of Airflow's frame leads its links to Airflow's own pages past the frame
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-airflow]");
  if (link === null || parent === window || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const outside = parent.document.createElement("a");
  outside.href = link.href;
  outside.target = link.target;
  outside.click();
});

// an answer of the API, or an error in words
async function call(path, options) {
  const answer = await fetch(root + path, { headers: { "Content-Type": "application/json" }, ...options });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const places = (body.details ?? []).map?.((d) => `${(d.place ?? []).at(-1) ?? ""}: ${d.message ?? ""}`) ?? [];
  throw new Error([body.message ?? `Airflow answered ${answer.status}`, ...places].join("; "));
}

const ask = document.querySelector("form.ask");
if (ask !== null) {
  const wrong = ask.querySelector(".wrong");
  for (const idea of ask.querySelectorAll("[data-idea]")) {
    idea.addEventListener("click", () => {
      ask.elements.question.value = idea.dataset.idea;
      ask.elements.question.focus();
    });
  }
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = ask.querySelector("button[type=submit]");
    const asked = {};
    for (const field of ask.querySelectorAll("[name]")) {
      const value = field.value.trim();
      if (field.type === "checkbox") { if (field.checked) asked[field.name] = true; }
      else if (value !== "") asked[field.name] = field.type === "number" ? Number(value) : value;
    }
    wrong.textContent = "";
    button.disabled = true;
    try {
      const run = await call("/api/runs", { method: "POST", body: JSON.stringify(asked) });
      location.assign(`${root}/runs/${encodeURIComponent(run.run_id)}`);
    } catch (error) {
      wrong.textContent = error.message;
      button.disabled = false;
    }
  });
}

const run = document.querySelector("[data-run]");
if (run !== null) {
  const path = `/runs/${encodeURIComponent(run.dataset.run)}`;
  const heard = document.getElementById("heard");
  let shown = document.getElementById("live").innerHTML;
  let loading = false;
  let again = false;
  let source = null;
  let timer = null;

  const over = () => document.querySelector("#live [data-over]") !== null;
  const stop = () => {
    clearInterval(timer);
    if (source !== null) source.close();
    document.getElementById("cancel").hidden = true;
  };
  // the server renders; here only what changed is put in its place
  const refresh = async () => {
    if (loading) { again = true; return; }
    loading = true;
    try {
      const answer = await fetch(`${root}${path}/live`, { headers: { Accept: "text/html" } });
      if (answer.ok) {
        const html = await answer.text();
        if (html !== shown) {
          shown = html;
          document.getElementById("live").innerHTML = html;
          heard.textContent = document.querySelector("#live [data-said]").dataset.said;
        }
      }
      if (over()) {
        stop();
        await results();
      }
    } catch { /* the server is away: the next event or the next round tells */ }
    loading = false;
    if (again) { again = false; refresh(); }
  };
  const results = async () => {
    const place = document.getElementById("results");
    if (place.childElementCount > 0) return;
    const answer = await fetch(`${root}${path}/results`, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    place.innerHTML = await answer.text();
    dispatchEvent(new Event("gca-shown"));
  };
  if (!over()) {
    timer = setInterval(refresh, POLL_MS);
    source = new EventSource(`${root}/api${path}/events`);
    for (const name of ["run", "end"]) source.addEventListener(name, refresh);
  }

  const sure = document.getElementById("sure");
  document.getElementById("cancel")?.addEventListener("click", () => sure.showModal());
  sure?.querySelector("[data-yes]").addEventListener("click", async (event) => {
    const wrong = sure.querySelector(".wrong");
    event.target.disabled = true;
    wrong.textContent = "";
    try {
      await call(`/api${path}/cancel`, { method: "POST" });
      sure.close();
      refresh();
    } catch (error) {
      wrong.textContent = error.message;
    }
    event.target.disabled = false;
  });
  sure?.querySelector("[data-no]").addEventListener("click", () => sure.close());
}
