//! Settings of the pipeline, with the contract's defaults. Passed as an argument, never global.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::Tz;
use topics::event::Limits;
use topics::reminder::{Channel, Offset};
use uuid::Uuid;

use crate::recurrence::Missed;
use crate::state::Settings;

/// Asks the store whether an audit entry with this id is durable: settles a hit among the 64-bit digests of the
/// identities of old events.
pub type Confirm = Arc<dyn Fn(Uuid) -> bool + Send + Sync>;

/// All settings of the pipeline.
#[derive(Clone)]
pub struct Config {
    /// `timezone`: zone of tasks whose user has none either.
    pub timezone: Tz,
    /// `reminders.default_offsets`.
    pub default_offsets: Vec<Offset>,
    /// `reminders.channels`.
    pub default_channels: Vec<Channel>,
    /// `reminders.all_day_hour`: anchor of the reminders of an all-day due, on its date in the task's zone.
    pub all_day_hour: NaiveTime,
    /// `reminders.max_late`: older reminders expire instead of being sent.
    pub max_late: Duration,
    /// `recurrence.missed`.
    pub missed: Missed,
    /// `bootstrap.create_horizon`: on a rebuild, creates for older completions are listed as failed.
    pub create_horizon: Duration,
    /// `actions.hold_max`: the longest that actions are held after a start, in real time.
    pub hold_max: Duration,
    /// Whether deliveries of an earlier life are read back first ([`Input::AlreadySent`](crate::Input::AlreadySent)):
    /// until they are known, nothing may fire however long that takes.
    pub reads_back: bool,
    /// Bounds on what is decoded.
    pub limits: Limits,
    /// Events after which a commit is closed. A batch record is never split.
    pub commit_events_max: usize,
    /// How often an idle worker looks at the clock. Bounds how late a reminder fires on the system clock.
    pub heartbeat: Duration,
    /// Inputs that may wait before [`Handle::send`](crate::Handle::send) blocks.
    pub queue_len_max: usize,
    /// Tasks expected, for sizing maps; those restored are counted in anyway.
    pub tasks_expected: usize,
    /// Events whose identity is remembered exactly. Must exceed what the store has not yet made durable, since
    /// only durable entries can be confirmed, and should exceed what it finds slowly: entries without indexes.
    pub recent_identities: usize,
    /// Confirms a digest hit; `None` takes every hit for a duplicate.
    pub confirm: Option<Confirm>,
    /// Whether counts of open tasks are maintained ([`Handle::counts`](crate::Handle::counts)).
    pub counts: bool,
    /// Whether commits name the events that belong to a recorded trace.
    pub traces: bool,
}

impl Config {
    /// What holds for a user who has set nothing.
    pub fn settings(&self) -> Settings {
        Settings {
            zone: self.timezone,
            offsets: self.default_offsets.clone(),
            channels: self.default_channels.clone(),
            email: None,
            since: Default::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            timezone: Tz::UTC,
            default_offsets: vec![Offset { after: false, days: 0, seconds: 3600 }],
            default_channels: vec![Channel::InApp],
            all_day_hour: NaiveTime::from_hms_opt(9, 0, 0).expect("a time of day"),
            max_late: Duration::from_secs(7 * 86_400),
            missed: Missed::Skip,
            create_horizon: Duration::from_secs(3600),
            hold_max: Duration::from_secs(300),
            reads_back: false,
            limits: Limits::default(),
            commit_events_max: 1000,
            heartbeat: Duration::from_millis(50),
            queue_len_max: 64,
            tasks_expected: 0,
            recent_identities: 1_048_576,
            confirm: None,
            counts: true,
            traces: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("timezone", &self.timezone)
            .field("default_offsets", &self.default_offsets)
            .field("default_channels", &self.default_channels)
            .field("all_day_hour", &self.all_day_hour)
            .field("max_late", &self.max_late)
            .field("missed", &self.missed)
            .field("create_horizon", &self.create_horizon)
            .field("hold_max", &self.hold_max)
            .field("limits", &self.limits)
            .field("commit_events_max", &self.commit_events_max)
            .field("counts", &self.counts)
            .field("traces", &self.traces)
            .finish_non_exhaustive()
    }
}
