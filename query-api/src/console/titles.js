// Titles of tasks, for rows that name only the task. Asked for once each; the oldest are forgotten.

import { read } from "/console/api.js";

const MOST = 2000;
const titles = new Map();
const asked = new Map();

/** Keeps the title of a task. */
export function remember(id, title) {
  titles.delete(id);
  titles.set(id, title);
  if (titles.size > MOST) titles.delete(titles.keys().next().value);
}

/** What to call a task without title. */
export const named = (title) => (typeof title === "string" && title.trim() ? title : title?.$erased ? "Erased task" : "Untitled task");

/** The title of a task: kept, or asked for. */
export async function titleOf(id) {
  if (titles.has(id)) return named(titles.get(id));
  if (!asked.has(id)) {
    const answer = read(`/v1/tasks/${id}`)
      .then((task) => { remember(id, task.title); return named(task.title); })
      .catch(() => "A task that is gone")
      .finally(() => asked.delete(id));
    asked.set(id, answer);
  }
  return asked.get(id);
}
