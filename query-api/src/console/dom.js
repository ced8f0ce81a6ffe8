// Elements from data. Text only ever becomes a text node, so nothing that a task says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element: `h("li", { class: "row", onclick: open }, "text", child, …)`; null children are left out. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** One of the icons of the sprite; decoration only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/console/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/**
 * Shows `items` as the children of `parent`. A child whose key and look are unchanged keeps its element, and with it
 * focus, scrolling and what it is just showing; one that is new or changed while the page was live is marked for a
 * moment.
 */
export function reconcile(parent, items, keyOf, lookOf, make) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const live = parent.dataset.shown === "1";
  const focused = parent.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  const children = items.map((item) => {
    const key = keyOf(item);
    const look = lookOf(item);
    const old = known.get(key);
    if (old && old.dataset.look === look) return old;
    const child = make(item);
    child.dataset.key = key;
    child.dataset.look = look;
    if (live) {
      child.classList.add("fresh");
      child.addEventListener("animationend", () => child.classList.remove("fresh"), { once: true });
    }
    return child;
  });
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  // Only what stands elsewhere is moved: moving an element would begin its animation again.
  children.forEach((child, at) => {
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  if (focused && !parent.contains(document.activeElement)) {
    children.find((c) => c.dataset.key === focused)?.querySelector("button")?.focus();
  }
  parent.dataset.shown = "1";
}
