// The page: what is shown, and when it is read anew.
//
// The lists come from the API as they are, so filters, order and counts are the server's. The stream tells that
// something changed; what is shown is then read again, at most every REFRESH milliseconds however much happens.

import { ApiError, clock, follow, read, useToken } from "/console/api.js";
import { openDetail, refreshDetail, watchDetail } from "/console/detail.js";
import { byId } from "/console/dom.js";
import { renderFilters } from "/console/filters.js";
import { renderHealth } from "/console/health.js";
import { renderActivity, renderOccurrences, renderReminders, renderTasks, tick } from "/console/lists.js";
import { remember } from "/console/titles.js";

const PAGE = 50;
const REFRESH = 700;
const HEALTH = 5000;

const state = {
  q: "", userId: "", status: "open", due: "", priority: "", recurring: "", tags: "",
  items: [], facets: {}, total: 0, nextCursor: null, pages: 1, activity: [],
};

/** What the address bar keeps, so that a view can be shared and survives a reload. */
const KEPT = ["q", "userId", "status", "due", "priority", "recurring", "tags"];

function fromAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const name of KEPT) if (query.has(name)) state[name] = query.get(name);
  byId("search").value = state.q;
  byId("user").value = state.userId;
}

function toAddress() {
  const query = new URLSearchParams();
  for (const name of KEPT) if (state[name] && !(name === "status" && state[name] === "open")) query.set(name, state[name]);
  history.replaceState(null, "", query.size ? `#${query}` : location.pathname);
}

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function taskParameters() {
  const { q, userId, status, due, priority, recurring, tags } = state;
  const sort = q.trim() ? "relevance,due" : status === "completed" ? "-updated" : null;
  return { q, userId, status, due, priority, recurring, tags, sort, tz: zone };
}

// ---------------------------------------------------------------- reading

let reading = 0;

async function loadTasks() {
  const turn = (reading += 1);
  byId("tasks").setAttribute("aria-busy", "true");
  try {
    const parameters = { ...taskParameters(), limit: PAGE };
    let page = await read("/v1/tasks", { ...parameters, counts: true, facets: "status,priority,due,tags" });
    const items = [...page.items];
    const { total, facets } = page;
    for (let at = 1; at < state.pages && page.nextCursor && turn === reading; at += 1) {
      page = await read("/v1/tasks", { ...parameters, cursor: page.nextCursor });
      items.push(...page.items);
    }
    if (turn !== reading) return;
    Object.assign(state, { items, total, facets, nextCursor: page.nextCursor });
    items.forEach((task) => remember(task.id, task.title));
    renderTasks(state, open);
    renderFilters(state, change);
    settled();
  } catch (error) {
    if (turn === reading) failed(error);
  } finally {
    if (turn === reading) byId("tasks").setAttribute("aria-busy", "false");
  }
}

async function loadReminders() {
  const page = await read("/v1/reminders", { userId: state.userId, status: "PENDING", limit: 6 });
  await renderReminders(page, open);
}

async function loadOccurrences() {
  const page = await read("/v1/occurrences", { userId: state.userId, state: "ACTIVE", limit: 6 });
  await renderOccurrences(page.items, open);
}

async function loadHealth() {
  try {
    const [status, ready] = await Promise.all([read("/v1/views/status"), read("/readyz").catch((e) => ({ status: "waiting", reason: e.message }))]);
    if (status.asOf) clock.tell(status.asOf);
    renderHealth(status, ready);
  } catch (error) {
    renderHealth(null, null, error.message);
  }
}

/** Loaders that were asked for run together, and not again before REFRESH has passed. */
const wanted = new Set();
let timer = null;

function soon(...loaders) {
  loaders.forEach((loader) => wanted.add(loader));
  if (timer !== null || document.hidden) return;
  timer = setTimeout(async () => {
    const now = [...wanted];
    wanted.clear();
    await Promise.all(now.map((loader) => Promise.resolve(loader()).catch(failed)));
    timer = null;
    if (wanted.size) soon();
  }, REFRESH);
}

function everything() {
  state.pages = 1;
  return Promise.all([loadTasks(), loadReminders(), loadOccurrences(), loadHealth()].map((p) => p.catch(failed)));
}

// ---------------------------------------------------------------- changes

function change(name, value) {
  state[name] = value;
  state.pages = 1;
  toAddress();
  loadTasks();
}

function open(task) {
  openDetail(task).catch(failed);
}

let stream = null;

function connect() {
  stream?.stop();
  stream = follow({ topics: "tasks,occurrences,reminders,audit", userId: state.userId }, {
    state: showLink,
    reset: everything,
    event(name, data) {
      if (name.startsWith("task.")) {
        if (data.title !== undefined) remember(data.id, data.title);
        soon(loadTasks);
      } else if (name.startsWith("reminder.")) soon(loadReminders);
      else if (name.startsWith("occurrence.")) soon(loadOccurrences);
      else if (name === "audit.append") {
        const task = data.afterState ?? data.beforeState;
        if (data.taskId && task?.title) remember(data.taskId, task.title);
        state.activity = [data, ...state.activity].slice(0, 8);
        soon(showActivity);
        if (watchDetail(data.taskId)) soon(refreshDetail);
      }
    },
  });
}

function showActivity() {
  return renderActivity(state.activity, open);
}

const LINK = { connecting: "Connecting", live: "Live", waiting: "Reconnecting", refused: "No live changes" };
let missed = false;

function showLink(to, more) {
  const link = byId("link");
  link.dataset.state = to;
  link.querySelector("span").textContent = LINK[to];
  if (to === "waiting") missed = true;
  if (to === "live" && missed) {
    missed = false;
    soon(loadTasks, loadReminders, loadOccurrences, loadHealth);
  }
  if (to === "refused") failed(more);
}

// ---------------------------------------------------------------- errors

function failed(error) {
  if (error?.name === "AbortError") return;
  if (error instanceof ApiError && error.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
    return;
  }
  byId("notice-text").textContent = error?.message ?? "Something went wrong.";
  byId("notice").hidden = false;
}

function settled() {
  byId("notice").hidden = true;
  byId("token-form").hidden = true;
}

// ---------------------------------------------------------------- wiring

function later(action, wait) {
  let pending = null;
  return (...given) => {
    clearTimeout(pending);
    pending = setTimeout(() => action(...given), wait);
  };
}

function wire() {
  const search = byId("search");
  search.addEventListener("input", later(() => change("q", search.value), 180));
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    change("q", search.value);
  });
  byId("user").addEventListener("input", later(() => {
    state.userId = byId("user").value.trim();
    state.activity = [];
    toAddress();
    connect();
    everything();
    showActivity();
  }, 350));
  byId("more").addEventListener("click", () => {
    state.pages += 1;
    loadTasks();
  });
  byId("notice-again").addEventListener("click", () => {
    settled();
    connect();
    everything();
  });
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(byId("token").value.trim());
    byId("token").value = "";
    settled();
    connect();
    everything();
  });
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      soon();
      loadHealth();
    }
  });
}

/** `/` goes to the search; arrows walk through a list; Escape empties the search. */
function keys(event) {
  const typing = event.target.matches("input");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !byId("detail").open) {
    event.preventDefault();
    byId("search").focus();
    byId("search").select();
  } else if (event.key === "Escape" && event.target.id === "search") {
    byId("search").value = "";
    change("q", "");
  } else if (event.key === "ArrowDown" && event.target.id === "search") {
    event.preventDefault();
    byId("tasks").querySelector("button")?.focus();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target.closest("[data-key]")) {
    const row = event.target.closest("[data-key]");
    const next = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
    const button = next?.querySelector("button");
    if (button) {
      event.preventDefault();
      button.focus();
    }
  }
}

fromAddress();
renderFilters(state, change);
wire();
everything().then(connect);
setInterval(tick, 1000);
setInterval(() => { if (!document.hidden) loadHealth(); }, HEALTH);
