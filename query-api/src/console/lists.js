// The lists of the page: tasks, reminders, occurrences, activity.

import { clock } from "/console/api.js";
import { byId, h, icon, reconcile } from "/console/dom.js";
import { action, clockTime, count, countdown, distance, due, duePast, offset, rule, when } from "/console/format.js";
import { named, titleOf } from "/console/titles.js";

const PRIORITY = { HIGH: "High priority", MEDIUM: "Medium priority", LOW: "Low priority" };

/** Shows the tasks of the state. */
export function renderTasks(state, open) {
  const now = clock.now();
  reconcile(byId("tasks"), state.items, (task) => task.id, (task) => `${task.version} ${isLate(task, now)} ${state.userId}`, (task) => taskRow(task, now, state.userId, open));
  const { total } = state;
  byId("count").textContent = total === 0 ? "" : state.items.length < total ? `${count(state.items.length)} of ${count(total)}` : count(total);
  byId("more").hidden = !state.nextCursor;
  const empty = byId("tasks-empty");
  empty.hidden = state.items.length > 0;
  empty.textContent = state.q || state.due || state.priority || state.recurring || state.tags
    ? "No task matches these filters."
    : state.status === "completed" ? "Nothing is done yet." : "No open task. New ones appear here by themselves.";
}

const isLate = (task, now) => !task.completed && task.dueDate !== null && duePast(task.dueDate, now);

function taskRow(task, now, userId, open) {
  const repeats = task.recurrenceRule
    ? h("span", { class: "meta", title: task.recurrenceRule }, icon("repeat"), rule(task.recurrenceRule))
    : null;
  const late = isLate(task, now);
  const dueText = task.dueDate
    ? h("span", { class: late ? "meta due late" : "meta due" }, icon("clock"), `${late ? "Overdue · " : ""}${due(task.dueDate, now)}`)
    : null;
  const priority = PRIORITY[task.priority] ? h("span", { class: `priority ${task.priority.toLowerCase()}` }, PRIORITY[task.priority].split(" ")[0]) : null;
  return h("li", { class: task.completed ? "task done" : "task" },
    h("button", { type: "button", onclick: () => open({ id: task.id, title: task.title }) },
      h("span", { class: "mark" }, icon(task.completed ? "done" : "open"), h("span", { class: "hidden" }, task.completed ? "Done: " : "Open: ")),
      h("span", { class: "what" },
        h("span", { class: "title" }, named(task.title)),
        h("span", { class: "metas" }, dueText, repeats, userId ? null : h("span", { class: "meta owner" }, task.userId), (task.tags.$erased ? [] : task.tags).slice(0, 4).map((tag) => h("span", { class: "tag" }, tag)))),
      priority));
}

/** Shows the reminders that wait, soonest first. */
export async function renderReminders(page, open) {
  const titles = await Promise.all(page.items.map((r) => titleOf(r.taskId)));
  const items = page.items.map((reminder, at) => ({ ...reminder, title: titles[at] }));
  reconcile(byId("reminders"), items, (r) => r.id, (r) => `${r.triggerTime} ${r.title} ${r.status}`, (r) =>
    h("li", { class: "row" },
      h("button", { type: "button", onclick: () => open({ id: r.taskId, title: r.title }) },
        h("span", { class: "row-icon" }, icon("bell")),
        h("span", { class: "what" },
          h("span", { class: "title" }, r.title),
          h("span", { class: "meta" }, `${r.kind === "snooze" ? "snoozed" : offset(r.reminderOffset)} · ${r.channels.map((c) => c.channel).join(", ")}`)),
        h("time", { class: "count-down", datetime: r.triggerTime, title: when(r.triggerTime, clock.now()), "data-countdown": r.triggerTime }, countdown(r.triggerTime, clock.now())))));
  byId("reminders-empty").hidden = items.length > 0;
  tick();
}

/** Shows the next occurrences, soonest first. */
export async function renderOccurrences(page, open) {
  const now = clock.now();
  const shown = page.filter((o) => o.nextDue !== null);
  const titles = await Promise.all(shown.map((o) => titleOf(o.taskId)));
  const items = shown.map((occurrence, at) => ({ ...occurrence, title: titles[at] }));
  reconcile(byId("occurrences"), items, (o) => o.taskId, (o) => `${o.nextDue} ${o.title} ${o.rule} ${o.remaining}`, (o) =>
    h("li", { class: "row" },
      h("button", { type: "button", onclick: () => open({ id: o.taskId, title: o.title }) },
        h("span", { class: "row-icon" }, icon("repeat")),
        h("span", { class: "what" },
          h("span", { class: "title" }, o.title),
          h("span", { class: "meta" }, o.remaining === null ? rule(o.rule) : `${rule(o.rule)} · ${o.remaining} left`)),
        h("time", { datetime: o.nextDueAt, title: distance(o.nextDueAt, now) }, due(o.nextDue, now)))));
  byId("occurrences-empty").hidden = items.length > 0;
}

/** Shows the latest audit entries, newest first. */
export async function renderActivity(entries, open) {
  const titles = await Promise.all(entries.map((e) => (e.taskId ? titleOf(e.taskId) : e.userId)));
  const items = entries.map((entry, at) => ({ ...entry, title: titles[at] }));
  reconcile(byId("activity"), items, (e) => e.id, (e) => e.title, (e) =>
    h("li", { class: "row", "data-action": e.action },
      h("button", { type: "button", disabled: !e.taskId, onclick: () => open({ id: e.taskId, title: e.title }) },
        h("span", { class: "dot", "aria-hidden": "true" }),
        h("span", { class: "what" },
          h("span", { class: "title" }, e.title),
          h("span", { class: "meta" }, e.stale ? `${action(e.action)} · came late, not applied` : action(e.action))),
        h("time", { datetime: e.recordedAt }, clockTime(e.recordedAt)))));
  byId("activity-empty").hidden = items.length > 0;
}

/** Moves the countdowns on by a second. */
export function tick() {
  const now = clock.now();
  for (const element of document.querySelectorAll("[data-countdown]")) {
    const text = countdown(element.dataset.countdown, now);
    if (element.textContent !== text) element.textContent = text;
    element.classList.toggle("near", Date.parse(element.dataset.countdown) - now < 60_000);
  }
}
