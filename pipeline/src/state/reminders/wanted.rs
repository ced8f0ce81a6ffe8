//! Which reminders an open task asks for, and when they trigger (contract §5.1).

use chrono::{Days, NaiveDateTime};
use chrono_tz::Tz;
use topics::ids;
use topics::reminder::{Channel, ENTRIES_MAX, Offset, When};
use topics::task::Task;
use topics::time::{Due, Timestamp, resolve};
use uuid::Uuid;

use super::BookConfig;
use crate::state::Settings;
use crate::views::reminders::{ChannelList, Kind, Reminder};

/// A reminder that a task asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What makes it.
    pub(super) kind: Kind,
    /// When it triggers.
    pub(super) trigger: Timestamp,
    /// Over which channels.
    pub(super) channels: ChannelList,
    /// The wall time of an entry that named one instead of an instant.
    pub(super) wall: Option<NaiveDateTime>,
    /// It hangs on what the user set, if they did: the default reminders, or the zone.
    pub(super) leans: bool,
    /// Since when the user has it among the default reminders; `None` when nobody said so.
    pub(super) made: Option<Timestamp>,
    /// The latest of that and the zone that its trigger hangs on.
    pub(super) judged: Option<Timestamp>,
    /// The latest of that and the channels.
    pub(super) shown: Option<Timestamp>,
}

impl Wanted {
    /// Whether `row` is the row of this, for a task that is due at `due`: they would have the same id.
    pub(super) fn is_of(&self, row: &Reminder, due: Option<Due>) -> bool {
        match (self.kind, row.kind) {
            (Kind::Relative(asked), Kind::Relative(offset)) => asked == offset && row.due == due,
            (Kind::Absolute, Kind::Absolute) => self.trigger == row.trigger,
            _ => false,
        }
    }

    /// Its id (§3).
    pub(super) fn id(&self, task: &Task) -> Uuid {
        match self.kind {
            Kind::Relative(offset) => ids::relative_reminder(task.id, &offset, task.due_date),
            Kind::Absolute => ids::absolute_reminder(task.id, self.trigger),
            Kind::Snooze => ids::snoozed_reminder(task.id, self.trigger),
        }
    }
}

/// Collects what `task`, taken as open, asks for: equal entries once, at most [`ENTRIES_MAX`].
pub(super) fn wanted(task: &Task, settings: &Settings, config: &BookConfig, into: &mut Vec<Wanted>) {
    let zone = settings.zone_of(task);
    let since = &settings.since;
    // `default`: since when it is one of the user's default reminders, if it is.
    let mut add = |when: When, channels: &[Channel], default: Option<Option<Timestamp>>| {
        let (kind, trigger, wall) = match (when, task.due_date) {
            (When::Offset(_), None) => return,
            (When::Offset(offset), Some(due)) => (Kind::Relative(offset), trigger(due, zone, offset, config), None),
            (When::At(at), _) => {
                let wall = if let Due::Floating(wall) = at { Some(wall) } else { None };
                (Kind::Absolute, at.to_instant(zone).plus_millis(0), wall)
            }
        };
        let is_same = |w: &&mut Wanted| w.kind == kind && (kind != Kind::Absolute || w.trigger == trigger);
        if let Some(known) = into.iter_mut().find(is_same) {
            // The first one counts; that a wall time stands for the same instant now is remembered.
            known.wall = known.wall.or(wall);
        } else if into.len() < ENTRIES_MAX {
            let zoned = task.timezone.is_none() && leans_on_zone(when, task.due_date);
            let made = default.flatten();
            let judged = made.max(since.zone.filter(|_| zoned));
            let shown = judged.max(since.channels.filter(|_| channels.is_empty()));
            let (leans, channels) = (zoned || default.is_some(), channels_or_default(channels, settings));
            into.push(Wanted { kind, trigger, channels, wall, leans, made, judged, shown });
        }
    };
    match &task.reminders {
        Some(entries) => entries.iter().for_each(|entry| {
            if let Some(when) = entry.when() {
                add(when, entry.channels(), None);
            }
        }),
        None => settings.offsets.iter().enumerate().for_each(|(place, offset)| {
            add(When::Offset(*offset), &[], Some(since.offsets.get(place).copied().flatten()));
        }),
    }
}

/// Whether the trigger of an entry hangs on the task's zone.
fn leans_on_zone(when: When, due: Option<Due>) -> bool {
    match when {
        When::Offset(offset) => offset.days != 0 || !matches!(due, Some(Due::Instant(_))),
        When::At(at) => !matches!(at, Due::Instant(_)),
    }
}

/// A reminder must reach somebody: without any channel it goes to the app.
fn channels_or_default(own: &[Channel], settings: &Settings) -> ChannelList {
    let named: ChannelList = if own.is_empty() { &settings.channels } else { own }.iter().copied().collect();
    if named.is_empty() { [Channel::InApp].into_iter().collect() } else { named }
}

/// When a reminder `offset` from `due` triggers: the days on the local calendar, then the time exactly.
fn trigger(due: Due, zone: Tz, offset: Offset, config: &BookConfig) -> Timestamp {
    let anchor = match due {
        Due::AllDay(date) => Due::Floating(date.and_time(config.all_day_hour)),
        timed => timed,
    };
    // Without days no wall clock is read: the second 02:30 of an autumn night would come back as the first.
    let day = match offset.days {
        0 => anchor.to_instant(zone),
        days => {
            let wall = anchor.to_wall(zone);
            let days = Days::new(u64::from(days));
            match if offset.after { wall.checked_add_days(days) } else { wall.checked_sub_days(days) } {
                Some(wall) => resolve(zone, wall),
                None if offset.after => Timestamp::MAX,
                None => Timestamp::MIN,
            }
        }
    };
    let millis = offset.seconds as i64 * 1000;
    day.plus_millis(if offset.after { millis } else { -millis })
}

#[cfg(test)]
mod tests {
    use topics::time::parse_zone;

    use super::*;
    use crate::state::reminders::tests::{settings, task};

    #[track_caller]
    fn check_trigger(due: &str, zone: &str, offset: &str, expected: &str) {
        let (due, offset) = (Due::parse(due).unwrap(), Offset::parse(offset).unwrap());
        let at = trigger(due, parse_zone(zone).unwrap(), offset, &BookConfig::default());
        assert_eq!(at.to_string(), expected);
    }

    #[test]
    fn days_are_local_and_time_is_exact() {
        check_trigger("2026-03-31T09:00:00Z", "UTC", "PT1H", "2026-03-31T08:00:00.000Z");
        check_trigger("2026-03-31T09:00:00Z", "UTC", "+PT1H", "2026-03-31T10:00:00.000Z");
        check_trigger("2026-03-31T09:00:00Z", "UTC", "PT0S", "2026-03-31T09:00:00.000Z");
        // Over the change to summer time a day is 23 hours.
        check_trigger("2026-03-29T09:00", "Europe/Berlin", "P1D", "2026-03-28T08:00:00.000Z");
        check_trigger("2026-03-29T09:00", "Europe/Berlin", "PT24H", "2026-03-28T07:00:00.000Z");
        check_trigger("2026-03-29T07:00:00Z", "Europe/Berlin", "P1D", "2026-03-28T08:00:00.000Z");
        check_trigger("2026-03-30T09:00", "Europe/Berlin", "P2DT1H", "2026-03-28T07:00:00.000Z");
        check_trigger("2026-03-28T09:00", "Europe/Berlin", "+P1D", "2026-03-29T07:00:00.000Z");
        // Inside the gap, and in the hour that comes twice.
        check_trigger("2026-03-30T02:30", "Europe/Berlin", "P1D", "2026-03-29T01:30:00.000Z");
        check_trigger("2026-03-29T02:30", "Europe/Berlin", "P1D", "2026-03-28T01:30:00.000Z");
        check_trigger("2026-10-25T01:30:00Z", "Europe/Berlin", "PT0S", "2026-10-25T01:30:00.000Z");
        check_trigger("2026-10-25T01:30:00Z", "Europe/Berlin", "PT1H", "2026-10-25T00:30:00.000Z");
        check_trigger("2026-10-26T02:30", "Europe/Berlin", "P1D", "2026-10-25T00:30:00.000Z");
    }

    #[test]
    fn an_all_day_due_is_anchored_in_the_morning() {
        check_trigger("2026-04-01", "Europe/Berlin", "PT0S", "2026-04-01T07:00:00.000Z");
        check_trigger("2026-04-01", "America/New_York", "PT1H", "2026-04-01T12:00:00.000Z");
        check_trigger("2026-03-29", "Europe/Berlin", "P1D", "2026-03-28T08:00:00.000Z");
        check_trigger("2022-02-24", "America/New_York", "PT0S", "2022-02-24T14:00:00.000Z");
    }

    #[test]
    fn far_away_is_kept_inside_the_calendar() {
        check_trigger("0001-01-02", "UTC", "P36600D", "0001-01-01T00:00:00.000Z");
        check_trigger("9999-12-31T23:00:00Z", "UTC", "+P1D", "9999-12-31T23:59:59.999Z");
        check_trigger("9999-12-31T23:00:00Z", "Pacific/Kiritimati", "+PT878400H", "9999-12-31T23:59:59.999Z");
    }

    /// Entries are written as in JSON; the default offsets of the user are `PT1H`, the channel `in-app`.
    #[track_caller]
    fn check(due: Option<&str>, reminders: Option<&str>, expected: &[&str]) {
        let task = task(due, reminders);
        let mut found = Vec::new();
        wanted(&task, &settings("Europe/Berlin"), &BookConfig::default(), &mut found);
        let shown: Vec<String> = found
            .iter()
            .map(|w| {
                let what = w.kind.offset().map_or_else(|| w.kind.name().to_owned(), |offset| offset.to_string());
                let channels: Vec<&str> = w.channels.iter().map(Channel::name).collect();
                format!("{what} {} {}", w.trigger, channels.join("+"))
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn entries_come_from_the_task_else_the_user() {
        let due = Some("2026-03-10T15:00:00Z");
        check(due, None, &["PT1H 2026-03-10T14:00:00.000Z in-app"]);
        check(due, Some("[]"), &[]);
        check(None, None, &[]);
        check(None, Some(r#"["PT1H",{"at":"2026-03-05T09:00:00Z"}]"#), &["absolute 2026-03-05T09:00:00.000Z in-app"]);
        check(
            due,
            Some(r#"["-PT2H",{"offset":"P1D","channels":["email","in-app","email"]},{"offset":"PT5M","channels":[]}]"#),
            &[
                "PT2H 2026-03-10T13:00:00.000Z in-app",
                "P1D 2026-03-09T15:00:00.000Z email+in-app",
                "PT5M 2026-03-10T14:55:00.000Z in-app",
            ],
        );
    }

    #[test]
    fn equal_entries_count_once_and_the_first_wins() {
        let due = Some("2026-03-10T15:00:00Z");
        check(
            due,
            Some(r#"["P0DT0H30M0S","PT30M","P0W",{"offset":"PT30M","channels":["email"]}]"#),
            &["PT30M 2026-03-10T14:30:00.000Z in-app", "PT0S 2026-03-10T15:00:00.000Z in-app"],
        );
        check(
            due,
            Some(r#"[{"at":"2026-03-05T09:00"},{"at":"2026-03-05T08:00:00Z","channels":["email"]},"P5DT7H"]"#),
            &["absolute 2026-03-05T08:00:00.000Z in-app", "P5DT7H 2026-03-05T08:00:00.000Z in-app"],
        );
        let many: Vec<String> = (1..=25).map(|n| format!("\"PT{n}M\"")).collect();
        let task = task(due, Some(&format!("[{}]", many.join(","))));
        let mut found = Vec::new();
        wanted(&task, &settings("UTC"), &BookConfig::default(), &mut found);
        assert_eq!(found.len(), ENTRIES_MAX);
    }
}
