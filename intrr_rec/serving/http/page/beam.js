// The beam, level by level: a column of prefixes each, joined to what they continue; those that end in a recommendation
// are drawn strongly.

import { el, get, hue, percent, shorten, svg } from "./dom.js";

const TOP = 34;
const NODE = 34;
const TITLES = 290;
// Below this width the titles, which the list has too, leave their place to the levels.
const NARROW = 640;

const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, words);
const mass = (prefixes) => Math.min(1, prefixes.reduce((sum, each) => sum + Math.exp(each.log_p), 0));
const same = (a, b) => a.length === b.length && a.every((code, i) => code === b[i]);

export function drawBeam(levels, items, onChoose) {
  const view = get("beam-view");
  const widest = Math.max(...levels.map((prefixes) => prefixes.length));
  const row = Math.max(11, Math.min(24, 520 / widest));
  const labelled = row >= 14;
  const height = TOP + widest * row + 8;
  const room = view.clientWidth || 900;
  const narrow = room < NARROW;
  const titles = narrow ? 30 : TITLES;
  const width = Math.max(narrow ? 60 + titles + levels.length * 48 : 720, room);
  const step = (width - 60 - titles) / levels.length;
  const x = (level) => 30 + step * (level + 1) - NODE / 2;
  const y = (place, of) => TOP + (height - TOP - 8 - of * row) / 2 + (place + 0.5) * row;
  const rootY = y(0, 1);
  const parents = levels.map((prefixes, level) => {
    const places = new Map((levels[level - 1] ?? []).map((prefix, place) => [prefix.codes.join(), place]));
    return prefixes.map((prefix) => places.get(prefix.codes.slice(0, -1).join()) ?? 0);
  });

  // Which prefixes lead to a recommended item, and to which: from the last level back to the first.
  const ends = levels.map((prefixes) => prefixes.map(() => []));
  const last = levels.length - 1;
  levels[last].forEach((prefix, place) => {
    const rank = items.findIndex((item) => same(item.sid, prefix.codes));
    for (let level = last, at = place; rank >= 0 && level >= 0; at = parents[level][at], level--)
      ends[level][at].push(rank);
  });

  const links = svg("g", { class: "links" });
  const nodes = svg("g", { class: "nodes" });
  const heads = svg("g", { class: "heads" });
  levels.forEach((prefixes, level) => {
    heads.append(
      text(x(level) + NODE / 2, 13, narrow ? String(level + 1) : `level ${level + 1}`, { "text-anchor": "middle" }),
      text(x(level) + NODE / 2, 26, narrow ? percent(mass(prefixes)) : `${prefixes.length} · ${percent(mass(prefixes))}`, { "text-anchor": "middle", class: "faint" }),
    );
    const best = prefixes[0].log_p;
    prefixes.forEach((prefix, place) => {
      const at = y(place, prefixes.length);
      const [fromX, fromY] = level ? [x(level - 1) + NODE, y(parents[level][place], levels[level - 1].length)] : [30, rootY];
      const bend = (x(level) - fromX) / 2;
      const kept = ends[level][place].length > 0;
      const marks = { "data-level": level, "data-ranks": ends[level][place].join(" "), class: kept ? "kept" : "lost" };
      links.append(svg("path", { ...marks, d: `M${fromX},${fromY}C${fromX + bend},${fromY} ${x(level) - bend},${at} ${x(level)},${at}` }));
      const node = svg("g", marks,
        svg("title", {}, `prefix ${prefix.codes.join(", ")}: ${percent(Math.exp(prefix.log_p))}`),
        svg("rect", { x: x(level), y: at - row * 0.4, width: NODE, height: row * 0.8, rx: Math.min(5, row * 0.3), class: hue(level) }));
      node.style.setProperty("--strength", Math.max(0.25, Math.exp((prefix.log_p - best) / 3)).toFixed(3));
      if (labelled) node.append(text(x(level) + NODE / 2, at + 3.5, String(prefix.codes.at(-1)), { "text-anchor": "middle" }));
      nodes.append(node);
    });
  });
  levels[last].forEach((prefix, place) => {
    const rank = ends[last][place][0];
    if (rank === undefined) return;
    const at = y(place, levels[last].length) + 4;
    const words = narrow ? String(rank + 1) : `${rank + 1}. ${shorten(items[rank].title, 34)}`;
    nodes.append(svg("g", { "data-level": last, "data-ranks": rank, class: "kept title", onclick: () => onChoose(items[rank]) },
      svg("title", {}, items[rank].title), text(x(last) + NODE + 8, at, words)));
  });

  const summary = levels.map((prefixes, level) => `level ${level + 1}: ${prefixes.length} prefixes with ${percent(mass(prefixes))} of the probability`);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "beam",
    "aria-label": `The beam narrows over ${levels.length} levels. ${summary.join("; ")}.` },
    heads, links, svg("circle", { cx: 30, cy: rootY, r: 6, class: "root" }, svg("title", {}, "the person's state")), nodes);
  drawing.addEventListener("pointerover", (event) => light(drawing, event.target.closest("[data-ranks]")?.dataset.ranks));
  drawing.addEventListener("pointerleave", () => light(drawing, ""));
  view.replaceChildren(drawing);
  get("beam-note").textContent = 
    `Above each level: ${narrow ? "" : "the prefixes kept, and "}the share of all probability that its prefixes hold. What led to no recommendation is grey.`;
  drawSteps(drawing, levels.length);
}

export const lightRank = (rank) => light(get("beam-view").querySelector("svg"), rank === null ? "" : String(rank));

function light(drawing, ranks) {
  if (!drawing) return;
  const wanted = new Set((ranks ?? "").split(" ").filter(Boolean));
  drawing.classList.toggle("lit", wanted.size > 0);
  for (const part of drawing.querySelectorAll("[data-ranks]"))
    part.classList.toggle("on", part.dataset.ranks.split(" ").some((rank) => wanted.has(rank)));
}

let playing = 0;

function drawSteps(drawing, levels) {
  clearInterval(playing);
  const buttons = [];
  const show = (upTo) => {
    for (const part of drawing.querySelectorAll("[data-level]")) part.classList.toggle("later", Number(part.dataset.level) >= upTo);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i + 1 === upTo)));
  };
  for (let level = 1; level <= levels; level++)
    buttons.push(el("button", { type: "button", "aria-label": `Up to level ${level}`, onclick: () => { clearInterval(playing); show(level); } }, String(level)));
  const play = el("button", { type: "button", class: "play", onclick: () => {
    clearInterval(playing);
    let level = 1;
    show(level);
    playing = setInterval(() => { if (++level > levels) clearInterval(playing); else show(level); }, 900);
  } }, "Play");
  get("steps").replaceChildren(play, ...buttons);
  show(levels);
}
