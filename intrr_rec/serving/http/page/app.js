// The page: a history, what is recommended after it, and how it came about.

import * as api from "./api.js";
import { drawBeam, lightRank } from "./beam.js";
import { el, get, sid } from "./dom.js";
import { featureControls } from "./features.js";
import { clearHeat, drawHeat } from "./heat.js";
import { fromInput, momentAfter, now, spaceTimes, toInput } from "./times.js";
import { drawTree } from "./tree.js";

const state = { history: [], user: {}, context: {}, answer: null, bundle: null };
const pending = {};
const SHOWN = ["list", "tree", "beam-card", "heat-card"];

// One request of a kind at a time: a newer one ends the older.
function only(kind) {
  pending[kind]?.abort();
  return (pending[kind] = new AbortController()).signal;
}

// Each kind of request tells its problem in a place of its own, until one of the same kind succeeds.
const PROBLEM = { search: "search-problem", recommend: "problem", item: "item-problem" };

async function guarded(kind, work, onProblem) {
  const told = get(PROBLEM[kind]);
  try {
    await work();
    told.hidden = true;
  } catch (error) {
    if (error.name === "AbortError") return;
    onProblem();
    told.hidden = error instanceof api.Denied;
    told.textContent = error.message;
    if (error instanceof api.Denied) {
      get("login").hidden = false;
      get("token").focus();
    }
  }
}

// ---- search -------------------------------------------------------------------------------------------------------

let active = -1;
let waiting = 0;

function showFound(items, query) {
  active = -1;
  get("query").removeAttribute("aria-activedescendant");
  get("query").setAttribute("aria-expanded", String(items.length > 0));
  get("found-note").textContent = query && !items.length ? "Nothing found." : "";
  get("found").replaceChildren(...items.map((item, i) =>
    el("li", { role: "option", id: `found-${i}`, "aria-selected": "false", onclick: () => add(item) },
      el("span", { class: "found-title" }, item.title), sid(item.sid), el("span", { class: "plus", "aria-hidden": "true" }, "+"))));
}

function search() {
  const query = get("query").value.trim();
  clearTimeout(waiting);
  waiting = setTimeout(() => guarded("search", async () => {
    const signal = only("search");
    showFound(query ? (await api.search(query, signal)).items : [], query);
  }, () => showFound([], "")), 120);
}

// What was typed is done with; an answer that is still under way comes too late.
function endSearch() {
  clearTimeout(waiting);
  only("search");
  get("query").value = "";
  showFound([], "");
}

function move(by) {
  const options = [...get("found").children];
  if (!options.length) return;
  active = (active + by + options.length) % options.length;
  options.forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
  options[active].scrollIntoView({ block: "nearest" });
  get("query").setAttribute("aria-activedescendant", `found-${active}`);
}

get("query").addEventListener("input", search);
get("query").addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) move(steps[event.key]);
  else if (event.key === "Enter") get("found").children[Math.max(active, 0)]?.click();
  else if (event.key === "Escape") endSearch();
  else return;
  event.preventDefault();
});

// ---- history ------------------------------------------------------------------------------------------------------

function add({ item, title, sid }) {
  state.history.push({ item, title, sid, timed: false, features: {} });
  endSearch();
  changed();
}

function changed() {
  drawHistory();
  refresh();
}

function drawHistory() {
  const { history } = state;
  spaceTimes(history, now());
  get("history-count").textContent = String(history.length);
  get("history-empty").hidden = history.length > 0;
  get("history-times").hidden = !(history.length && state.bundle?.reads_times);
  get("clear").hidden = !history.length;
  get("history").replaceChildren(...history.map((item, i) =>
    el("li", {}, el("span", { class: "found-title", title: item.title }, item.title),
      el("button", { type: "button", class: "quiet", "aria-label": `Remove ${item.title}`, onclick: () => { history.splice(i, 1); changed(); } }, "×"),
      state.bundle?.reads_times ? timeOf(item) : null,
      featureControls(features(), "event", item.title, item.features, changed))));
}

const features = () => state.bundle?.features ?? [];

// What is known of the person, and what is asked for.
function drawAbout() {
  for (const [of, title] of [["user", "Person"], ["context", "Asked for"]]) {
    const controls = featureControls(features(), of, of, state[of], refresh);
    get(of).hidden = !controls;
    get(of).replaceChildren(...(controls ? [el("h3", {}, title), controls] : []));
  }
}

function timeOf(item) {
  const input = el("input", { type: "datetime-local", class: "when", "aria-label": `When ${item.title} was had`, value: toInput(item.time) });
  input.addEventListener("change", () => {
    item.timed = input.value !== "";
    if (item.timed) item.time = fromInput(input.value);
    changed();
  });
  return input;
}

get("clear").addEventListener("click", () => { state.history.length = 0; changed(); });

// ---- recommendations ----------------------------------------------------------------------------------------------

// What is shown belongs to another request than the one under way: it is seen to be old, and cannot be clicked.
function markStale(stale) {
  get("list").setAttribute("aria-busy", String(stale));
  for (const id of SHOWN) {
    get(id).classList.toggle("stale", stale);
    get(id).inert = stale;
  }
  if (stale) {
    get("source").textContent = "updating…";
    delete get("source").dataset.source;
  }
}

function clearAnswer() {
  markStale(false);
  state.answer = null;
  only("item");
  for (const id of ["list", "tree", "source", "spoken"]) get(id).replaceChildren();
  get("beam-card").hidden = true;
  get("item-problem").hidden = true;
  clearHeat();
}

function refresh() {
  clearTimeout(state.timer);
  const signal = only("recommend");
  markStale(true);
  state.timer = setTimeout(() => guarded("recommend", async () => {
    await learnBundle(signal);
    state.answer = await api.recommend(asked(), signal).catch(async (error) => {
      // Another bundle, which wants to be asked otherwise, may be served by now.
      if (error.name === "AbortError" || !(await learnBundle(signal, true))) throw error;
      return api.recommend(asked(), signal);
    });
    showAnswer();
  }, clearAnswer), 60);
}

function asked() {
  const times = state.bundle.reads_times
    ? { timestamps: state.history.map((item) => item.time), time: momentAfter(state.history, now()) } : {};
  return {
    history: state.history.map((item) => (Object.keys(item.features).length ? { item: item.item, ...item.features } : item.item)),
    ...(Object.keys(state.user).length ? { user: state.user } : {}),
    ...(Object.keys(state.context).length ? { context: state.context } : {}),
    ...times,
    k: Number(get("k").value),
    beam: Math.max(Number(get("beam").value), Number(get("k").value)),
    filters: { exclude_seen: get("seen").checked },
    trace: true,
  };
}

// What was chosen of features that another bundle read is not asked of this one.
function forget(before) {
  if (!before || JSON.stringify(before.features) === JSON.stringify(state.bundle.features)) return;
  Object.assign(state, { user: {}, context: {} });
  for (const item of state.history) item.features = {};
}

// Ask for the bundle where it is not known (or `again`); returns whether it is another one than before.
async function learnBundle(signal, again = false) {
  if (state.bundle && !again) return false;
  const before = state.bundle;
  state.bundle = await api.bundle(signal);
  if (!before) get("seen").checked = state.bundle.exclude_seen;
  if (state.bundle.bundle !== before?.bundle) {
    forget(before);
    drawHistory();
    drawAbout();
  }
  return state.bundle.bundle !== before?.bundle;
}

function showAnswer() {
  const { items, source, beam, bundle } = state.answer;
  get("bundle").textContent = `bundle ${bundle.slice(0, 8)}`;
  get("source").textContent = source === "model" ? "from the model" : "popular items";
  get("source").dataset.source = source;
  markStale(false);
  const best = items[0]?.score, worst = items.at(-1)?.score;
  get("list").replaceChildren(el("ol", { class: "ranked" }, ...items.map((item, rank) => {
    const bar = el("i", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", best > worst ? (0.12 + 0.88 * (item.score - worst) / (best - worst)).toFixed(3) : "1");
    return el("li", { onpointerenter: () => lightRank(rank), onpointerleave: () => lightRank(null) },
      el("button", { type: "button", "data-item": item.item, "aria-pressed": "false", onclick: () => choose(item) },
        el("span", { class: "rank" }, String(rank + 1)),
        el("span", { class: "what" }, el("span", { class: "title" }, item.title), sid(item.sid)),
        el("span", { class: "score", title: source === "model" ? "score of the ranking" : "log of the share of all events" }, bar, item.score.toFixed(2))),
      el("button", { type: "button", class: "quiet add", "aria-label": `Add ${item.title} to the history`, onclick: () => add(item) }, "+"));
  })));
  drawTree(get("tree"), items, choose);
  get("beam-card").hidden = !beam;
  if (beam) drawBeam(beam, items, choose);
  get("spoken").textContent = items.length ? `${items.length} items; first: ${items[0].title}` : "No items.";
  if (items.length) choose(items[0]);
  else clearHeat();
}

function choose(item) {
  for (const button of document.querySelectorAll("[data-item]"))
    button.setAttribute("aria-pressed", String(button.dataset.item === String(item.item)));
  guarded("item", async () => drawHeat(await api.item(item.item, only("item")), choose), clearHeat);
}

for (const name of ["k", "beam"]) {
  const tell = () => { get(`${name}-value`).textContent = get(name).value; };
  get(name).addEventListener("input", () => { tell(); refresh(); });
  tell();
}
get("seen").addEventListener("change", refresh);

// ---- tabs, theme, token -------------------------------------------------------------------------------------------

const tabs = [get("tab-list"), get("tab-tree")];
function showTab(tab) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", String(on));
    each.tabIndex = on ? 0 : -1;
    get(each.getAttribute("aria-controls")).hidden = !on;
  }
}
for (const tab of tabs) {
  tab.addEventListener("click", () => showTab(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs.find((each) => each !== tab);
    showTab(other);
    other.focus();
  });
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  get("theme").textContent = theme === "dark" ? "☀" : "☾";
}
useTheme(localStorage.getItem("intrr-theme") ?? (dark.matches ? "dark" : "light"));
get("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("intrr-theme", theme);
  useTheme(theme);
});

get("login").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(get("token").value);
  get("login").hidden = true;
  changed();
});

let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (state.answer?.beam) drawBeam(state.answer.beam, state.answer.items, choose); }, 150);
});

changed();
