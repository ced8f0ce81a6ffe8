// One task: its fields, what is coming, and its timeline with what each change made of what.

import { ApiError, clock, read } from "/console/api.js";
import { byId, h, icon } from "/console/dom.js";
import { action, distance, due, fieldName, offset, rule, value, when } from "/console/format.js";
import { named } from "/console/titles.js";

/** Changes with every event, and tells nothing. */
const HIDDEN = new Set(["updatedAt"]);
/** What a new task always has; its line in the timeline shows the rest. */
const HIDDEN_AT_FIRST = new Set(["id", "userId", "createdAt", "recurrenceMode", "timezone"]);
let shown = null;

/** Whether the open task is this one. */
export const watchDetail = (id) => shown !== null && shown.id === id;

/** Opens the panel for a task. */
export async function openDetail(task) {
  shown = { id: task.id, title: task.title };
  const dialog = byId("detail");
  byId("detail-title").textContent = named(task.title);
  byId("detail-sub").textContent = "";
  byId("detail-body").replaceChildren(h("p", { class: "empty" }, "Reading the timeline…"));
  if (!dialog.open) dialog.showModal();
  await refreshDetail();
}

/** Reads the open task again. */
export async function refreshDetail() {
  const { id } = shown ?? {};
  if (!id) return;
  const orNull = (promise) => promise.catch((error) => {
    if (error instanceof ApiError && (error.status === 404 || error.status === 410)) return null;
    throw error;
  });
  try {
    const [task, next, timeline] = await Promise.all([
      orNull(read(`/v1/tasks/${id}`, { include: "occurrence,reminders" })),
      orNull(read(`/v1/tasks/${id}/occurrences`, { count: 5 })),
      orNull(read("/v1/audit", { taskId: id, order: "desc", limit: 100 })),
    ]);
    if (shown?.id !== id) return;
    render(task, next?.items ?? [], timeline);
  } catch (error) {
    if (shown?.id === id) byId("detail-body").replaceChildren(h("p", { class: "empty" }, error.message));
  }
}

function render(task, next, timeline) {
  const now = clock.now();
  const body = byId("detail-body");
  const top = body.scrollTop;
  if (task) {
    byId("detail-title").textContent = named(task.title);
    byId("detail-sub").textContent = task.completed
      ? `Completed ${task.completedAt ? distance(task.completedAt, now) : ""}`
      : task.dueDate ? `Due ${due(task.dueDate, now)}` : "No due date";
  } else {
    byId("detail-sub").textContent = "Deleted; its timeline stays";
  }
  body.replaceChildren(...[
    task?.description ? h("p", { class: "description" }, typeof task.description === "string" ? task.description : "Erased") : null,
    task ? facts(task, now) : null,
    next.length ? section("Coming up", h("ol", { class: "coming" }, next.map((n) => h("li", null, h("span", null, due(n.due, now)), h("small", null, `no. ${n.index} · ${distance(n.dueAt, now)}`))))) : null,
    task?.reminders?.length ? section("Reminders", h("ul", { class: "coming" }, task.reminders.map((r) => reminder(r, now)))) : null,
    section("Timeline", timeline?.items.length
      ? h("ol", { class: "timeline" }, timeline.items.map((entry) => event(entry, now)), timeline.nextCursor ? h("li", { class: "rest" }, "Older entries are in /v1/audit.") : null)
      : h("p", { class: "empty" }, "No entry yet.")),
  ].filter(Boolean));
  body.scrollTop = top;
}

function section(title, content) {
  return h("section", null, h("h3", null, title), content);
}

function facts(task, now) {
  const rows = [
    ["Owner", task.userId],
    task.priority !== "NONE" ? ["Priority", task.priority.charAt(0) + task.priority.slice(1).toLowerCase()] : null,
    task.recurrenceRule ? ["Repeats", rule(task.recurrenceRule)] : null,
    task.occurrence?.state === "INVALID" ? ["Rule refused", task.occurrence.reason] : null,
    task.occurrenceIndex !== null ? ["Occurrence", `no. ${task.occurrenceIndex} of its series`] : null,
    task.timezone ? ["Time zone", task.timezone] : null,
    task.tags.length ? ["Tags", task.tags.join(", ")] : null,
    ["Created", when(task.createdAt, now)],
    ["Version", String(task.version)],
  ].filter(Boolean);
  return h("dl", { class: "facts" }, rows.map(([name, text]) => h("div", null, h("dt", null, name), h("dd", null, text))));
}

function reminder(r, now) {
  const state = { PENDING: distance(r.triggerTime, now), SENT: `sent ${r.sentAt ? distance(r.sentAt, now) : ""}${r.late ? ", late" : ""}` }[r.status]
    ?? `${r.status.toLowerCase()}${r.reason ? `: ${r.reason.replaceAll("_", " ")}` : ""}`;
  return h("li", { class: r.status === "PENDING" ? "" : "past" }, h("span", null, icon("bell"), `${when(r.triggerTime, now)} (${r.kind === "snooze" ? "snoozed" : offset(r.reminderOffset)})`), h("small", null, state));
}

function event(entry, now) {
  const first = entry.beforeState === null && entry.action === "CREATED";
  const told = (c) => !HIDDEN.has(c.field) && !(first && (HIDDEN_AT_FIRST.has(c.field) || c.to === false));
  const changes = (entry.changes ?? []).filter(told);
  const notes = [
    entry.stale ? "came late; not applied" : null,
    entry.gap ? "a version is missing before this" : null,
    ...(entry.warnings ?? []).map((w) => `${w.field}: ${w.code.replaceAll("_", " ")}`),
  ].filter(Boolean);
  return h("li", { class: entry.stale ? "stale" : "", "data-action": entry.action },
    h("div", { class: "event-head" },
      h("strong", null, action(entry.action)),
      h("time", { datetime: entry.timestamp, title: `event ${entry.timestamp}\ncommitted ${entry.recordedAt}` }, when(entry.timestamp, now))),
    h("p", { class: "by" }, `#${entry.seq} · ${entry.metadata?.actor?.type ?? ""} ${entry.metadata?.actor?.id ?? ""}`.trim()),
    notes.length ? h("p", { class: "note" }, notes.join(" · ")) : null,
    changes.length ? h("table", { class: "changes" },
      h("caption", { class: "hidden" }, "Changed fields, before and after"),
      h("thead", { class: "hidden" }, h("tr", null, h("th", { scope: "col" }, "Field"), h("th", { scope: "col" }, "Before"), h("th", { scope: "col" }, "After"))),
      h("tbody", null, changes.map((c) => h("tr", null,
        h("th", { scope: "row" }, fieldName(c.field)),
        first ? null : h("td", { class: "before" }, value(c.from, c.field, now)),
        h("td", { class: "after", colspan: first ? "2" : null }, value(c.to, c.field, now)))))) : null);
}

byId("detail-close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("close", () => { shown = null; });
byId("detail").addEventListener("click", (click) => { if (click.target === byId("detail")) byId("detail").close(); });
