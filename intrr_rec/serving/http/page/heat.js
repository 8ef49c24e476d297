// How redistribution spreads an item over the codes of each level: a square of cells a level, and the likeliest in words.

import { el, get, hue, percent, sid, svg } from "./dom.js";

const CELL = 15;
const NAMED = 3;

const NOTHING_CHOSEN = "Choose an item: every level shows how it spreads over the codes.";

export function clearHeat() {
  get("heat-note").textContent = NOTHING_CHOSEN;
  get("heat").replaceChildren();
  get("near-title").hidden = true;
  get("near").replaceChildren();
}

export function drawHeat(item, onChoose) {
  get("heat-note").replaceChildren("How ", el("strong", {}, item.title), " spreads over the codes of each level. A ring marks its Semantic ID.");
  get("heat").replaceChildren(...(item.redistribution ?? []).map((p, level) => square(p, item.sid[level], level)));
  if (!item.redistribution) get("heat").append(el("p", { class: "note" }, "This model does not redistribute its items."));
  get("near-title").hidden = !item.neighbours.length;
  get("near").replaceChildren(...item.neighbours.map((near) =>
    el("li", {}, el("button", { type: "button", onclick: () => onChoose(near) },
      el("span", { class: "near-title" }, near.title), sid(near.sid),
      el("span", { class: "faint", title: "cosine similarity" }, near.similarity.toFixed(3))))));
}

function square(p, own, level) {
  const columns = Math.ceil(Math.sqrt(p.length));
  const rows = Math.ceil(p.length / columns);
  const drawing = svg("svg", { viewBox: `-2 -2 ${columns * CELL + 4} ${rows * CELL + 4}`, role: "img", class: hue(level) });
  p.forEach((value, code) => {
    const cell = svg("rect", { x: (code % columns) * CELL, y: Math.floor(code / columns) * CELL, width: CELL - 2, height: CELL - 2, rx: 2.5 },
      svg("title", {}, `code ${code}: ${percent(value)}`));
    // The root spreads small probabilities apart: at a thousandth a cell is still seen.
    cell.style.setProperty("--p", `${(Math.sqrt(value) * 100).toFixed(1)}%`);
    drawing.append(cell);
  });
  drawing.append(svg("rect", { class: "own", x: (own % columns) * CELL - 1.5, y: Math.floor(own / columns) * CELL - 1.5, width: CELL + 1, height: CELL + 1, rx: 4 }));
  const likeliest = p.map((value, code) => ({ value, code })).sort((a, b) => b.value - a.value).slice(0, NAMED);
  const words = likeliest.map(({ value, code }) => `${code} ${percent(value)}`).join(", ");
  drawing.setAttribute("aria-label", `Level ${level + 1}: likeliest codes ${words}; Semantic ID code ${own} with ${percent(p[own])}`);
  const bits = -p.reduce((sum, value) => sum + (value > 0 ? value * Math.log2(value) : 0), 0);
  return el("figure", {}, el("figcaption", {}, el("strong", {}, `Level ${level + 1}`),
    el("span", { class: "faint" }, `${p.length} codes · ${bits.toFixed(1)} bits`)), drawing,
    el("p", { class: "note likeliest" }, ...likeliest.map(({ value, code }) =>
      el("span", {}, el("b", { class: `code ${hue(level)}${code === own ? " is-own" : ""}` }, String(code)), ` ${percent(value)}`))));
}
