// How instants, rules and values are written for people: in the browser's own language and zone.

const DAY = 86_400_000;
const language = navigator.language || "en";
const dateTime = new Intl.DateTimeFormat(language, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const dateTimeYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const dateOnly = new Intl.DateTimeFormat(language, { weekday: "short", day: "numeric", month: "short" });
const dateYear = new Intl.DateTimeFormat(language, { day: "numeric", month: "short", year: "numeric" });
const seconds = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const number = new Intl.NumberFormat(language);

/** A number with the separators of the reader's language. */
export const count = (value) => number.format(value);

/** An instant as day and time. */
export function when(instant, now) {
  const at = new Date(instant);
  return (Math.abs(at - now) < 300 * DAY ? dateTime : dateTimeYear).format(at);
}

/** An instant as a time with seconds. */
export const clockTime = (instant) => seconds.format(new Date(instant));

/** A due in its own kind: a date is no instant, and a floating time is nobody's zone but the task's. */
export function due(text, now) {
  if (/^\d{4}-\d{2}-\d{2}$/.test(text)) {
    const [year, month, day] = text.split("-").map(Number);
    const date = new Date(year, month - 1, day);
    return (Math.abs(date - now) < 300 * DAY ? dateOnly : dateYear).format(date);
  }
  return when(text, now);
}

/** The instant at which a due has passed, as well as the page can tell without the task's zone. */
export function duePast(text, now) {
  if (/^\d{4}-\d{2}-\d{2}$/.test(text)) {
    const [year, month, day] = text.split("-").map(Number);
    return now >= new Date(year, month - 1, day + 1).getTime();
  }
  return now > new Date(text).getTime();
}

/** How far away an instant is: «in 3 hours», «2 days ago». */
export function distance(instant, now) {
  const away = new Date(instant) - now;
  const size = Math.abs(away);
  const [unit, length] =
    size < 60_000 ? ["second", 1000] : size < 3_600_000 ? ["minute", 60_000] : size < DAY ? ["hour", 3_600_000] : ["day", DAY];
  return relative.format(Math.round(away / length), unit);
}

/** A countdown: `4 d 6 h`, `2 h 05 min`, `4:09`. */
export function countdown(instant, now) {
  const left = Math.floor((new Date(instant) - now) / 1000);
  if (left <= 0) return "now";
  const [days, hours, minutes, rest] = [Math.floor(left / 86_400), Math.floor(left / 3600) % 24, Math.floor(left / 60) % 60, left % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return `${minutes}:${String(rest).padStart(2, "0")}`;
}

/** A duration in milliseconds, short. */
export function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 2 * DAY) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / DAY)} d`;
}

const UNITS = { MINUTELY: "minute", HOURLY: "hour", DAILY: "day", WEEKLY: "week", MONTHLY: "month", YEARLY: "year" };
const DAYS = { MO: "Mon", TU: "Tue", WE: "Wed", TH: "Thu", FR: "Fri", SA: "Sat", SU: "Sun" };
const KNOWN = new Set(["FREQ", "INTERVAL", "BYDAY", "BYMONTHDAY", "COUNT", "UNTIL", "WKST"]);

/** A rule in words where it is a simple one; any other as it is written. */
export function rule(text) {
  const line = text.split(/\r?\n/).find((l) => /FREQ=/i.test(l)) ?? text;
  const parts = Object.fromEntries(line.replace(/^RRULE:/i, "").split(";").filter(Boolean).map((p) => p.toUpperCase().split("=")));
  const unit = UNITS[parts.FREQ];
  const days = parts.BYDAY?.split(",").map((d) => DAYS[d]);
  if (!unit || Object.keys(parts).some((p) => !KNOWN.has(p)) || days?.includes(undefined)) return line;
  const every = Number(parts.INTERVAL ?? 1);
  let words = every === 1 ? `Every ${unit}` : `Every ${every} ${unit}s`;
  if (days) words += ` on ${days.join(", ")}`;
  if (parts.BYMONTHDAY) words += ` on day ${parts.BYMONTHDAY.split(",").join(", ")}`;
  if (parts.COUNT) words += `, ${parts.COUNT} times`;
  if (parts.UNTIL) words += `, until ${parts.UNTIL.slice(0, 4)}-${parts.UNTIL.slice(4, 6)}-${parts.UNTIL.slice(6, 8)}`;
  return words;
}

/** `PT1H` before the due: «1 h before». */
export function offset(text) {
  if (!text) return "at a fixed time";
  const after = text.startsWith("+");
  const parts = [...text.matchAll(/(\d+)([DHMS])/g)].map(([, size, unit]) => `${size} ${{ D: "d", H: "h", M: "min", S: "s" }[unit]}`);
  if (!parts.length || /P(T0S|0D)$/.test(text)) return "when due";
  return `${parts.join(" ")} ${after ? "after" : "before"}`;
}

/** A value of a changed field. */
export function value(of, field, now) {
  if (of === null || of === undefined || of === "") return "nothing";
  if (of?.$erased) return "erased";
  if (typeof of === "boolean") return of ? "yes" : "no";
  if (Array.isArray(of)) return of.length ? of.map((v) => (typeof v === "string" ? v : JSON.stringify(v))).join(", ") : "nothing";
  if (typeof of === "object") return Object.keys(of).length ? JSON.stringify(of) : "nothing";
  if (typeof of === "string" && /^\d{4}-\d{2}-\d{2}(T|$)/.test(of)) return due(of, now);
  if (field === "recurrenceRule") return rule(of);
  return String(of);
}

/** `recurrenceRule` → «Recurrence rule». */
export function fieldName(name) {
  const words = name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const ACTIONS = {
  CREATED: "Created", UPDATED: "Changed", COMPLETED: "Completed", DELETED: "Deleted",
  REMINDER_SNOOZED: "Reminder snoozed", REMINDER_DISMISSED: "Reminder dismissed", USER_UPDATED: "Settings changed",
  REMINDER_SENT: "Reminder sent", REMINDER_CANCELLED: "Reminder cancelled", REMINDER_EXPIRED: "Reminder expired",
  REMINDER_FAILED: "Reminder failed", NEXT_TASK_CREATED: "Next task decided", ACTION_FAILED: "Action failed",
  ERASED: "Erased", TRUNCATED: "Older entries removed",
};

/** An audit action in words. */
export const action = (name) => ACTIONS[name] ?? name;
