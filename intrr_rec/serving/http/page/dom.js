// Making elements: text is always set as text, so a title can hold anything.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const get = (id) => document.getElementById(id);

export const percent = (p) =>
  p >= 0.0995 ? `${Math.round(p * 100)} %` : p >= 0.001 ? `${(p * 100).toFixed(1)} %` : "< 0.1 %";

export const shorten = (words, most) => (words.length > most ? `${words.slice(0, most - 1).trimEnd()}…` : words);

// The hues of levels repeat after the fifth.
export const hue = (level) => `l${level % 5}`;

export function sid(codes) {
  const label = `Semantic ID ${codes.join(", ")}`;
  return el("span", { class: "sid", role: "img", "aria-label": label, title: label },
    ...codes.map((code, level) => el("b", { class: hue(level) }, String(code))));
}
