// How the pipeline is: a line of numbers, each with a word for whether it is well.

import { byId, h } from "/console/dom.js";
import { count, distance, span } from "/console/format.js";
import { clock } from "/console/api.js";

/** Shows `/v1/views/status` and `/readyz`, or why they cannot be read. */
export function renderHealth(status, ready, problem) {
  byId("health").replaceChildren(...(status ? numbers(status, ready) : [item("Pipeline", problem ?? "unknown", "bad")]));
}

function item(name, text, state, title) {
  return h("div", { "data-state": state ?? "good", title }, h("dt", null, name), h("dd", null, text));
}

function numbers({ source, views, commits, outbox, reminders, deadLetters }, ready) {
  const lag = source.partitions.reduce((sum, p) => sum + Math.max(0, p.lag ?? 0), 0);
  const behind = Math.max(0, ...views.map((v) => v.lagMs ?? 0));
  const tables = Math.max(0, ...views.map((v) => v.tableLagMs ?? 0));
  const rows = Object.fromEntries(views.map((v) => [v.name, v.rows]));
  const waiting = ready?.waiting?.length ? ready.waiting.join(", ") : null;
  const oldest = outbox.oldestAgeMs ?? 0;
  return [
    item("Pipeline", ready?.status === "ready" ? (waiting ? `ready, waits for ${waiting}` : ready.role ?? "ready") : `waits for ${waiting ?? ready?.reason ?? "input"}`, ready?.status === "ready" ? (waiting ? "fair" : "good") : "bad", ready?.reason),
    item("Behind the log", lag === 0 ? "nothing" : `${count(lag)} records`, lag < 1000 ? "good" : lag < 10_000 ? "fair" : "bad", `source: ${source.mode}`),
    item("Views lag", span(behind), behind < 5000 ? "good" : "fair", `SQL tables: ${span(tables)}`),
    item("Commits", commits.perMinute === null || commits.perMinute === undefined ? "–" : `${count(Math.round(commits.perMinute))} / min`),
    item("Tasks", count(rows.tasks ?? 0)),
    item("Audit entries", count(rows.audit ?? 0)),
    item("Outbox", outbox.pending === 0 ? "empty" : `${count(outbox.pending)} open, oldest ${span(oldest)}`, outbox.pending === 0 || oldest < 60_000 ? "good" : "fair"),
    item("Failed actions", count(outbox.failed ?? 0), outbox.failed ? "bad" : "good"),
    item("Reminders", reminders.pending === 0 ? "none waiting" : `${count(reminders.pending)} waiting`, reminders.overdue ? "fair" : "good",
      reminders.nextTriggerTime ? `next ${distance(reminders.nextTriggerTime, clock.now())}` : null),
    deadLetters ? item("Dead letters", count(deadLetters.total), deadLetters.total ? "fair" : "good") : null,
  ].filter(Boolean);
}
