//! Views: what is made of the task state for readers.
//!
//! The task table and the audit timeline are the pipeline's own output and have their shape in the commit
//! ([`tasks`], [`audit_timeline`]). Every other view is one file: it declares its row, how it is listed
//! ([`ViewSpec`]) and how it follows the changes of tasks ([`Follow`]). Its name in [`VIEWS`] is all that the rest
//! needs: operator, SQL table, list route, stream topic and docs come from the list.

use std::sync::Arc;

use topics::Task;
use topics::action::{Action, Progress};
use topics::commit::RowChange;
use topics::ids::TaskId;
use topics::time::Timestamp;
use topics::view::{ViewRow, ViewSpec};

use crate::config::Config;
use crate::state::{Effect, Settings, Step};

pub mod tasks;
pub mod audit_timeline;
pub mod occurrences;
pub mod reminders;
mod reminder_book;

/// A view in the list of views.
pub struct View {
    /// What it tells the rest of itself.
    pub spec: ViewSpec,
    /// Makes what follows the changes; `number` is the place in [`VIEWS`], which its rows carry.
    pub build: fn(config: &Config, number: u8) -> Box<dyn Follow>,
}

/// Every view beside tasks and audit. [`RowChange::view`] is a place in this list: append only.
pub static VIEWS: &[View] = &[
    View { spec: occurrences::SPEC, build: occurrences::follow },
    View { spec: reminders::SPEC, build: reminder_book::follow },
];

/// How a view follows the changes of tasks. It is a function of what it is told: no clock, no I/O.
pub trait Follow {
    /// Takes in the stored rows, and what else it needs to go on. Called once, before anything else.
    fn restore(&mut self, stored: &Stored<'_>);

    /// Takes in one step. Steps of one task come in the order of the log.
    fn step(&mut self, step: &Step, out: &mut Vec<Effect>);

    /// Called when all steps of a time were taken in, with the clock's reading. `holding`: nothing may be sent yet.
    fn settle(&mut self, now: Timestamp, holding: bool, out: &mut Vec<Effect>) -> Wake {
        let _ = (now, holding, out);
        Wake::Never
    }
}

/// When a view wants [`Follow::settle`] to be called though no step comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Only after the next step.
    Never,
    /// When the clock shows this.
    At(Timestamp),
    /// At once: there is more to do than one commit should hold.
    Again,
}

/// What a view gets back at a restart.
pub struct Stored<'a> {
    /// Its rows.
    pub rows: Vec<Arc<dyn ViewRow>>,
    /// Actions of the ledger and those still open.
    pub actions: &'a [(Arc<Action>, Progress)],
    /// The stored task and what holds for its user.
    pub known: &'a dyn Fn(TaskId) -> Option<(Arc<Task>, Arc<Settings>)>,
}

/// Splits stored rows by view.
pub fn split(rows: Vec<RowChange>) -> Vec<Vec<Arc<dyn ViewRow>>> {
    let mut split: Vec<Vec<Arc<dyn ViewRow>>> = VIEWS.iter().map(|_| Vec::new()).collect();
    for row in rows {
        if let (Some(rows), Some(after)) = (split.get_mut(row.view as usize), row.after) {
            rows.push(after);
        }
    }
    split
}

/// A row as the type that its view made it of.
pub fn row_as<R: ViewRow>(row: &Arc<dyn ViewRow>) -> Option<Arc<R>> {
    Arc::clone(row).into_any().downcast().ok()
}
