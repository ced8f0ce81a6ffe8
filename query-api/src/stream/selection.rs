//! What one reader wants of the changes, and how it is told.

use bytes::Bytes;
use chrono_tz::Tz;
use topics::audit::ShownEntry;
use topics::task::Task;
use topics::view::ViewRow;
use topics::{TaskId, Timestamp, UserId};

use super::ring::{Batch, Change, What, Who};
use crate::filter::TaskQuery;

/// Decides whether a reader wants a resource.
pub(crate) type Keep<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

/// The topics that a reader named, each with its filter; a topic that is `None` is not wanted.
#[derive(Default)]
pub(crate) struct Selection {
    pub tasks: Option<TaskFilter>,
    pub views: Vec<ViewSelection>,
    pub audit: Option<AuditSelection>,
}

/// Which audit entries are wanted.
pub(crate) struct AuditSelection {
    pub keep: Keep<ShownEntry>,
    /// Everybody's: then they are shown whole.
    pub all: bool,
}

impl AuditSelection {
    /// What is told of an entry.
    pub fn show(&self, entry: &ShownEntry) -> Option<Shown> {
        (self.keep)(entry).then(|| Shown::entry(entry.for_reader(self.all)))
    }
}

/// Which tasks are wanted.
pub(crate) struct TaskFilter {
    pub query: Box<TaskQuery>,
    pub task: Option<TaskId>,
}

impl TaskFilter {
    /// `zone` is that of the task's user.
    fn keeps(&self, task: &Task, zone: Tz, at: Timestamp) -> bool {
        let zone = task.timezone.unwrap_or(zone);
        self.task.is_none_or(|id| id == task.id) && self.query.matches_at(task, zone, at)
    }
}

/// A view other than tasks that a reader named.
pub(crate) struct ViewSelection {
    pub view: usize,
    pub singular: &'static str,
    pub keep: Keep<dyn ViewRow>,
}

/// What a reader is told of one change.
#[derive(Debug)]
pub(crate) struct Shown {
    pub name: &'static str,
    /// `upsert`, `delete` or `append`.
    pub verb: &'static str,
    /// JSON without line breaks; shared by all readers that are told the same.
    pub data: Bytes,
}

impl Shown {
    /// A resource that is there.
    pub fn task(task: &Task) -> Shown {
        Shown { name: "task", verb: "upsert", data: task_json(task) }
    }

    /// A row that is there.
    pub fn row(singular: &'static str, row: &dyn ViewRow) -> Shown {
        Shown { name: singular, verb: "upsert", data: row_json(row) }
    }

    /// An audit entry.
    pub fn entry(json: &str) -> Shown {
        Shown { name: "audit", verb: "append", data: one_line(json.as_bytes().to_vec()) }
    }

    fn gone(name: &'static str, id: impl std::fmt::Display) -> Shown {
        Shown { name, verb: "delete", data: format!("{{\"id\":\"{id}\"}}").into() }
    }
}

fn task_json(task: &Task) -> Bytes {
    one_line(serde_json::to_vec(task).expect("a task always serialises"))
}

fn row_json(row: &dyn ViewRow) -> Bytes {
    let mut json = Vec::new();
    row.write_json(&mut json);
    one_line(json)
}

/// A resource is written without line breaks; one inside a client's own JSON (`extra`, verbatim) is only space.
fn one_line(mut json: Vec<u8>) -> Bytes {
    json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    json.shrink_to_fit();
    json.into()
}

/// The JSON of a change's row, written once for all readers.
fn shared(batch: &Batch, change: &Change, write: impl FnOnce() -> Bytes) -> Bytes {
    let written = change.json.get_or_init(|| {
        let json = write();
        batch.keeps(json.len());
        json
    });
    written.clone()
}

impl Selection {
    /// The zone whose days its words mean, where they move with the time.
    pub fn day_zone(&self) -> Option<Tz> {
        self.tasks.as_ref().filter(|tasks| tasks.query.depends_on_now()).map(|tasks| tasks.query.zone)
    }

    /// Whose tasks are told of.
    pub fn who(&self) -> Who<'_> {
        match &self.tasks {
            None => Who::Nobody,
            Some(TaskFilter { query, .. }) => {
                query.user.as_ref().map_or(Who::Everybody, |user: &UserId| Who::One(user))
            }
        }
    }

    /// What to tell of a change: the resource while it fits, `{id}` when it no longer does, else nothing. What did fit
    /// is judged by what the reader was told: by the time that day words meant then.
    pub fn show(&self, batch: &Batch, change: &Change) -> Option<Shown> {
        let (was_at, at) = batch.times;
        match &change.what {
            What::Task { id, before, after, zones } => {
                let filter = self.tasks.as_ref()?;
                let did = || before.as_deref().is_some_and(|task| filter.keeps(task, zones.0, was_at));
                match after.as_deref().filter(|task| filter.keeps(task, zones.1, at)) {
                    // Only its zone is another: who has it has it as it is.
                    Some(task) if same(before.as_ref(), task) && did() => None,
                    Some(task) => {
                        let data = shared(batch, change, || task_json(task));
                        Some(Shown { name: "task", verb: "upsert", data })
                    }
                    None => did().then(|| Shown::gone("task", id)),
                }
            }
            What::Row { view, key, before, after } => {
                let ViewSelection { singular, keep, .. } = self.views.iter().find(|v| v.view == usize::from(*view))?;
                match after.as_deref().filter(|row| keep(*row)) {
                    Some(row) => {
                        let data = shared(batch, change, || row_json(row));
                        Some(Shown { name: singular, verb: "upsert", data })
                    }
                    None => before.as_deref().is_some_and(keep).then(|| Shown::gone(singular, key)),
                }
            }
            What::Turn { task, zone, asker } => {
                let filter = self.tasks.as_ref()?;
                if !filter.query.depends_on_now() || asker.is_some_and(|asker| asker != filter.query.zone) {
                    return None;
                }
                match (filter.keeps(task, *zone, was_at), filter.keeps(task, *zone, at)) {
                    (false, true) => {
                        let data = shared(batch, change, || task_json(task));
                        Some(Shown { name: "task", verb: "upsert", data })
                    }
                    (true, false) => Some(Shown::gone("task", task.id)),
                    _ => None,
                }
            }
            What::Erased => None,
        }
    }
}

/// Whether nothing of the task changed: it is the very one that was there before.
fn same(before: Option<&std::sync::Arc<Task>>, after: &Task) -> bool {
    before.is_some_and(|before| std::ptr::eq(&**before, after))
}
