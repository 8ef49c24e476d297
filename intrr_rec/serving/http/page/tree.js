// The recommended items as a tree of their Semantic IDs: what shares a prefix hangs on one branch.

import { el, hue } from "./dom.js";

export function drawTree(place, items, onChoose) {
  const root = { children: new Map() };
  items.forEach((item, rank) => {
    let node = root;
    for (const code of item.sid) {
      if (!node.children.has(code)) node.children.set(code, { children: new Map(), count: 0 });
      node = node.children.get(code);
      node.count++;
    }
    node.leaf = { item, rank };
  });
  place.replaceChildren(el("ul", { class: "tree" }, ...branches(root, 0, onChoose)));
}

function branches(node, level, onChoose) {
  return [...node.children].map(([code, child]) => {
    let depth = level;
    const head = el("span", { class: "node" });
    // A prefix that one item alone has is written on one line.
    for (;;) {
      head.append(el("b", { class: `code ${hue(depth)}` }, String(code)));
      if (child.count > 1 || child.leaf) break;
      [[code, child]] = child.children;
      depth++;
    }
    if (!child.leaf) {
      head.append(el("span", { class: "faint" }, `${child.count} items`));
      return el("li", {}, head, el("ul", {}, ...branches(child, depth + 1, onChoose)));
    }
    const { item, rank } = child.leaf;
    head.append(el("button", { type: "button", "data-item": item.item, "aria-pressed": "false", title: item.title, onclick: () => onChoose(item) },
      el("span", { class: "rank" }, String(rank + 1)), el("span", { class: "title" }, item.title)));
    return el("li", {}, head);
  });
}
