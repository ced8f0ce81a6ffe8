//! What one reader wants of the changes, and how it is told.

use bytes::Bytes;
use topics::audit::ShownEntry;
use topics::task::Task;
use topics::view::ViewRow;

use super::{Change, EventId};

/// Decides whether a reader wants a resource.
pub(crate) type Keep<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

/// The topics that a reader named, each with its filter; a topic that is `None` is not wanted.
#[derive(Default)]
pub(crate) struct Selection {
    pub tasks: Option<Followed<Task>>,
    pub views: Vec<ViewSelection>,
    pub audit: Option<Followed<ShownEntry>>,
}

/// A topic that a reader named.
pub(crate) struct Followed<T: ?Sized> {
    /// Changes of this commit and of earlier ones are in the snapshot that the reader got.
    pub known: u64,
    /// Which resources are wanted.
    pub keep: Keep<T>,
}

/// A view other than tasks that a reader named.
pub(crate) struct ViewSelection {
    pub view: usize,
    pub singular: &'static str,
    pub rows: Followed<dyn ViewRow>,
}

/// What a reader is told of one change.
#[derive(Debug)]
pub(crate) struct Shown {
    pub name: &'static str,
    /// `upsert`, `delete` or `append`.
    pub verb: &'static str,
    pub data: Vec<u8>,
}

impl Shown {
    /// A resource that is there.
    pub fn task(task: &Task) -> Shown {
        let data = serde_json::to_vec(task).expect("a task always serialises");
        Shown { name: "task", verb: "upsert", data }
    }

    /// A row that is there.
    pub fn row(singular: &'static str, row: &dyn ViewRow) -> Shown {
        let mut data = Vec::new();
        row.write_json(&mut data);
        Shown { name: singular, verb: "upsert", data }
    }

    /// An audit entry.
    pub fn entry(entry: &ShownEntry) -> Shown {
        Shown { name: "audit", verb: "append", data: entry.json.as_bytes().to_vec() }
    }

    fn gone(name: &'static str, id: impl std::fmt::Display) -> Shown {
        Shown { name, verb: "delete", data: format!("{{\"id\":\"{id}\"}}").into_bytes() }
    }

    /// The event as it goes over the wire; rows of a snapshot have no id.
    pub fn frame(&self, id: Option<EventId>) -> Bytes {
        let mut frame = Vec::with_capacity(self.data.len() + 64);
        frame.extend_from_slice(format!("event: {}.{}\n", self.name, self.verb).as_bytes());
        if let Some(id) = id {
            frame.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        frame.extend_from_slice(b"data: ");
        // A resource is written without line breaks; one inside a client's own JSON (`extra`, verbatim) is only space.
        frame.extend(self.data.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
        frame.extend_from_slice(b"\n\n");
        Bytes::from(frame)
    }
}

impl Selection {
    /// What to tell of a change in commit `n`: the resource while it fits, `{id}` when it no longer does, else nothing.
    pub fn show(&self, n: u64, change: &Change) -> Option<Shown> {
        match change {
            Change::Task { id, before, after } => {
                let Followed { known, keep } = self.tasks.as_ref()?;
                if n <= *known {
                    return None;
                }
                match after.as_deref().filter(|t| keep(t)) {
                    Some(task) => Some(Shown::task(task)),
                    None => before.as_deref().is_some_and(keep).then(|| Shown::gone("task", id)),
                }
            }
            Change::Row { view, key, before, after } => {
                let ViewSelection { singular, rows: Followed { known, keep }, .. } =
                    self.views.iter().find(|v| v.view == usize::from(*view))?;
                if n <= *known {
                    return None;
                }
                match after.as_deref().filter(|r| keep(*r)) {
                    Some(row) => Some(Shown::row(singular, row)),
                    None => before.as_deref().is_some_and(keep).then(|| Shown::gone(singular, key)),
                }
            }
            Change::Audit(entry) => {
                let Followed { known, keep } = self.audit.as_ref()?;
                (n > *known && keep(entry)).then(|| Shown::entry(entry))
            }
        }
    }
}
