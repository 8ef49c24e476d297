// What the model reads beside items and times: a control for each feature, in the words of the bundle.

import { el } from "./dom.js";

const named = (features, of) => features.filter((feature) => (of === "context" ? feature.context : feature.of === of));

// Values of a feature that may be chosen; none where any value may be written.
function choices({ kind, values }) {
  return kind === "boolean" ? ["true", "false"] : values;
}

function control(feature, label, given, changed) {
  const { name } = feature;
  const write = (event) => {
    if (event.target.value === "") delete given[name];
    else given[name] = event.target.value;
    changed();
  };
  const known = choices(feature);
  if (!known.length) {
    const type = feature.kind === "numeric" ? "number" : "text";
    return el("input", { type, step: "any", value: given[name], "aria-label": label, onchange: write });
  }
  const options = ["", ...known].map((value) =>
    el("option", { value, selected: (given[name] ?? "") === value }, value === "" ? "–" : value));
  return el("select", { "aria-label": label, onchange: write }, ...options);
}

// Controls of all features of the event, the user or the context; null where there are none. `given` is what was chosen.
export function featureControls(features, of, about, given, changed) {
  const own = named(features, of);
  if (!own.length) return null;
  return el("div", { class: "features" }, ...own.map((feature) =>
    el("label", {}, el("span", {}, feature.name), control(feature, `${feature.name} of ${about}`, given, changed))));
}
