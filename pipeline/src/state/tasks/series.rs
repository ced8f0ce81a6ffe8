//! The series fields of a task (§6, §13): where its recurrence is counted from, and which occurrence it is.
//!
//! `recurrenceStart` is the anchor of the series version; `recurrenceId` the scheduled due: of a first task that of the
//! event which set or changed the rule, so a due moved by hand leaves both alone; `occurrenceIndex` its ordinal.
//!
//! Precedence: what the event gives, what is stored and was given once, what the ledger knows of a successor, what the
//! pipeline made from rule and due. So it does not matter whether a successor or the completion that asks for it is
//! read first. A changed rule, or a due of another kind, starts a new version over all of them. Chat API does not hear
//! of that version and may go on sending the fields of an old one: those are recognised as an echo.
//!
//! A deleted successor rests: when it comes back it goes on with the series that it had.

use std::ops::BitOrAssign;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize};
use topics::Task;
use topics::task::{RecurrenceMode, Warning};
use topics::time::Due;

use super::snapshot::Given;
use crate::recurrence::RuleCache;
use crate::state::ledger::SeriesFields;
use crate::state::rules::{self, Recurrence, evaluate};

/// Old versions remembered of one task. Beyond it the oldest but one is forgotten: the oldest is what Chat API was told.
const ECHOES_MAX: usize = 16;

/// Series fields of an older version that a sender may keep sending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// `recurrenceStart`
    pub start: Option<Due>,
    /// `recurrenceId`
    pub id: Option<Due>,
    /// `occurrenceIndex`
    pub index: Option<u32>,
}

impl Echo {
    fn of(given: &Given) -> Echo {
        Echo { start: given.start, id: given.id, index: given.index }
    }

    /// What Chat API was told with a create.
    fn told(known: &SeriesFields) -> Echo {
        Echo { start: Some(known.start), id: Some(known.id), index: Some(known.index) }
    }

    fn is_empty(&self) -> bool {
        *self == Echo::default()
    }

    /// Whether all that `said` names is of this version. Some fields may have got lost on the way.
    fn covers(&self, said: &Echo) -> bool {
        let same = |known: bool, absent: bool| known || absent;
        same(said.start == self.start, said.start.is_none())
            && same(said.id == self.id, said.id.is_none())
            && same(said.index == self.index, said.index.is_none())
    }

    /// Adds old versions to those remembered.
    pub fn remember(echoes: &mut Vec<Echo>, old: Vec<Echo>) {
        for echo in old {
            if echo.is_empty() || echoes.contains(&echo) {
                continue;
            }
            if echoes.len() == ECHOES_MAX {
                echoes.remove(1);
            }
            echoes.push(echo);
        }
    }
}

/// Reads the echoes of a task; older stores hold one at most.
pub fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Echo>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Many(Vec<Echo>),
        One(Echo),
        None,
    }
    Ok(match Stored::deserialize(from)? {
        Stored::Many(echoes) => echoes,
        Stored::One(echo) => vec![echo],
        Stored::None => Vec::new(),
    })
}

/// Which series fields of a task are more than what the pipeline made of its rule and due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub u8);

impl Marks {
    const START: Marks = Marks(1);
    const ID: Marks = Marks(2);
    const INDEX: Marks = Marks(4);
    const SERIES: Marks = Marks(8);
    /// The pipeline began a version, or ended the series, over what was there.
    const RENEWED: Marks = Marks(16);

    /// Of a task that begins anew. Should it turn out to be a successor, a version that it had stays in force.
    pub fn anew(self) -> Marks {
        Marks(self.0 & Marks::RENEWED.0)
    }

    fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }
}

impl BitOrAssign for Marks {
    fn bitor_assign(&mut self, other: Marks) {
        self.0 |= other.0;
    }
}

/// What is remembered of the series of a deleted task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    rule: Option<CompactString>,
    due: Option<Due>,
    fields: Given,
}

impl Resting {
    /// Of a task that is being deleted; `None` when it had no part in a series.
    pub fn of(task: &Task, marks: Marks) -> Option<Resting> {
        let fields = Given::of(task);
        let none = task.recurrence_rule.is_none() && marks == Marks::default() && fields == Given::default();
        (!none).then(|| Resting { rule: task.recurrence_rule.clone(), due: task.due_date, fields })
    }

    /// The task that it followed.
    pub fn previous(&self) -> Option<topics::ids::TaskId> {
        self.fields.previous
    }

    /// Gives a task that comes back its fields.
    pub fn wake(&self, task: &mut Task) {
        self.fields.lay_on(task);
    }

    /// What the series was.
    pub fn before(&self) -> Before<'_> {
        Before { rule: self.rule.as_deref(), due: self.due, fields: self.fields.clone() }
    }

    /// As [`fill_in`], for a task that is deleted just now.
    pub fn fill_in(&mut self, known: &SeriesFields, marks: &mut Marks) -> Option<Echo> {
        fill_in(&mut self.fields, known, marks)
    }
}

/// The series of a task before an event.
pub struct Before<'a> {
    rule: Option<&'a str>,
    due: Option<Due>,
    fields: Given,
}

impl<'a> Before<'a> {
    /// That of a stored task.
    pub fn of(task: &'a Task) -> Self {
        Before { rule: task.recurrence_rule.as_deref(), due: task.due_date, fields: Given::of(task) }
    }

    /// Whether `task` begins a new version: another rule, or a due of another kind.
    fn ends_with(&self, task: &Task) -> bool {
        let other_kind = match (self.due.or(self.fields.start), task.due_date) {
            (Some(before), Some(due)) => !due.same_kind(before),
            _ => false,
        };
        other_kind || self.rule != task.recurrence_rule.as_deref()
    }
}

/// What an event says of a task's series, and what is known otherwise.
pub struct Sources<'a> {
    /// The series before, if it goes on.
    pub before: Option<Before<'a>>,
    /// What the event gives.
    pub given: Given,
    /// What the ledger knows, if the task is a successor.
    pub ledger: Option<&'a SeriesFields>,
    /// Old versions.
    pub echoes: &'a [Echo],
    /// Which stored fields were given once.
    pub marks: Marks,
    /// The task's zone.
    pub zone: Tz,
}

/// What is to be remembered of a task's series beside its fields.
#[derive(Debug, Default)]
pub struct Noted {
    /// Which fields were given.
    pub marks: Marks,
    /// The series has nothing to do with one that the task had.
    pub anew: bool,
    /// Versions that are old from now on.
    pub old: Vec<Echo>,
}

/// Sets the series fields of `task`, which holds the stored ones, and warns of a refused rule.
pub fn settle(rules: &mut RuleCache, task: &mut Task, sources: Sources<'_>) -> Noted {
    let Sources { before, given, ledger, echoes, marks, zone } = sources;
    let mut noted = Noted { marks, anew: before.is_none(), old: Vec::new() };
    let said = Echo::of(&given);
    let told = ledger.filter(|_| marks.has(Marks::RENEWED)).map(Echo::told);
    let echoed = !said.is_empty() && echoes.iter().chain(&told).any(|old| old.covers(&said));
    let given = if echoed { Given { start: None, id: None, index: None, ..given } } else { given };
    take(task, &given, ledger, &mut noted.marks);
    let Some(text) = task.recurrence_rule.as_deref() else {
        if let Some(before) = before.filter(|before| before.rule.is_some()) {
            renew(task, &before, said, &mut noted);
        }
        return noted;
    };
    let rule = match rules.get(text) {
        Ok(rule) => rule,
        Err(_) => {
            warn(task);
            return noted;
        }
    };
    task.series_id.get_or_insert(task.id);
    let dtstart = rules::dtstart_of(&rule, task, zone);
    if let Some(before) = before.filter(|before| before.ends_with(task)) {
        renew(task, &before, said, &mut noted);
        // A version that begins at its due begins with it, whether or not the rule picks that due.
        task.occurrence_index = task.due_date.filter(|_| dtstart.is_none()).map(|_| 1);
    }
    task.recurrence_start = task.recurrence_start.or(dtstart).or(task.due_date);
    task.recurrence_id = task.recurrence_id.or(task.due_date);
    match evaluate(rules, task, zone, None) {
        Recurrence::Invalid(_) => warn(task),
        Recurrence::Series(series) if task.occurrence_index.is_none() => {
            task.occurrence_index = match task.recurrence_mode {
                RecurrenceMode::Completion => Some(1),
                RecurrenceMode::Due => task.recurrence_id.map(|id| series.ordinal(id)),
            };
        }
        _ => {}
    }
    noted
}

/// Ends the version that was: what was stored and what the event said of it are old.
fn renew(task: &mut Task, before: &Before<'_>, said: Echo, noted: &mut Noted) {
    (task.recurrence_start, task.recurrence_id, task.occurrence_index) = (None, None, None);
    noted.marks |= Marks::RENEWED;
    noted.old = vec![Echo::of(&before.fields), said];
}

/// Fills the fields of a successor that was seen before its create was decided. Of a version that was begun since, the
/// fields stay, and those of the ledger are an echo.
pub fn fill_in(fields: &mut Given, known: &SeriesFields, marks: &mut Marks) -> Option<Echo> {
    let renewed = marks.has(Marks::RENEWED);
    let none = Given::default();
    take_one(&mut fields.series, none.series, Some(known.series), Marks::SERIES, marks);
    fields.previous = fields.previous.or(Some(known.previous));
    take_triple(fields, &none, Some(known), marks);
    renewed.then(|| Echo::told(known))
}

/// The fields after what an event gives and the ledger knows.
fn take(task: &mut Task, given: &Given, ledger: Option<&SeriesFields>, marks: &mut Marks) {
    let mut fields = Given::of(task);
    take_one(&mut fields.series, given.series, ledger.map(|known| known.series), Marks::SERIES, marks);
    fields.previous = given.previous.or(fields.previous).or(ledger.map(|known| known.previous));
    take_triple(&mut fields, given, ledger, marks);
    fields.lay_on(task);
}

fn take_triple(fields: &mut Given, given: &Given, ledger: Option<&SeriesFields>, marks: &mut Marks) {
    let ledger = ledger.filter(|_| !marks.has(Marks::RENEWED));
    take_one(&mut fields.start, given.start, ledger.map(|known| known.start), Marks::START, marks);
    take_one(&mut fields.id, given.id, ledger.map(|known| known.id), Marks::ID, marks);
    take_one(&mut fields.index, given.index, ledger.map(|known| known.index), Marks::INDEX, marks);
}

fn take_one<T>(field: &mut Option<T>, given: Option<T>, ledger: Option<T>, mark: Marks, marks: &mut Marks) {
    if let Some(value) = given.or(ledger.filter(|_| !marks.has(mark))) {
        *field = Some(value);
        *marks |= mark;
    }
}

fn warn(task: &mut Task) {
    task.warnings.push(Warning::new("recurrenceRule", "rrule_invalid"));
}
