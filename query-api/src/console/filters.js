// The row of filters above the tasks: groups of which one choice holds, with how many tasks each would show.

import { byId, h } from "/console/dom.js";
import { count } from "/console/format.js";

const GROUPS = [
  { name: "status", label: "Status", choices: [["open", "Open"], ["completed", "Done"], ["all", "All"]] },
  { name: "due", label: "Due", choices: [["", "Any time"], ["overdue", "Overdue"], ["today", "Today"], ["week", "This week"], ["none", "No date"]] },
  { name: "priority", label: "Priority", choices: [["", "Any"], ["HIGH", "High"], ["MEDIUM", "Medium"], ["LOW", "Low"]] },
  { name: "recurring", label: "Repeats", choices: [["", "All"], ["true", "Repeating"], ["false", "Once"]] },
];

/** Shows the groups; `change(name, value)` is called on a choice. */
export function renderFilters(state, change) {
  const parent = byId("filters");
  if (!parent.children.length) {
    parent.append(...GROUPS.map((group) => select(group, change)), h("div", { class: "tags", id: "tag-choices", role: "group", "aria-label": "Tags" }));
  }
  for (const group of GROUPS) {
    const chosen = byId(`filter-${group.name}`);
    for (const option of chosen.options) {
      const label = group.choices.find(([value]) => value === option.value)[1];
      const facet = state.facets[group.name]?.find((f) => f.value === option.value);
      option.textContent = facet && state[group.name] === "" ? `${label} (${count(facet.count)})` : label;
    }
    chosen.value = state[group.name];
    chosen.parentElement.classList.toggle("set", state[group.name] !== group.choices[0][0]);
  }
  renderTags(state, change);
}

function select({ name, label, choices }, change) {
  return h("label", { class: "filter" },
    h("span", null, label),
    h("select", { id: `filter-${name}`, onchange: (event) => change(name, event.target.value) },
      choices.map(([value, text]) => h("option", { value }, text))));
}

function renderTags(state, change) {
  const parent = byId("tag-choices");
  const known = (state.facets.tags ?? []).filter((f) => !f.value.includes(",")).slice(0, 8);
  if (state.tags && !known.some((f) => f.value === state.tags)) known.unshift({ value: state.tags, count: null });
  const held = parent.contains(document.activeElement) ? document.activeElement.dataset.tag : null;
  parent.replaceChildren(...known.map(({ value, count: size }) => {
    const on = state.tags === value;
    return h("button", { type: "button", class: "chip", "aria-pressed": String(on), "data-tag": value, onclick: () => change("tags", on ? "" : value) },
      value, size === null ? null : h("small", null, count(size)));
  }));
  if (held !== null) [...parent.children].find((b) => b.dataset.tag === held)?.focus();
}
