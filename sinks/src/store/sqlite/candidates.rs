//! Keys of an index between two bounds, in order, out of all runs and parts.

use std::sync::Arc;

use sqlx::Transaction;
use sqlx::sqlite::{Sqlite, SqlitePool};

use crate::store::StoreError;
use crate::store::sqlite::db::Db;
use crate::store::sqlite::runs::{Index, Key, Kind, Part, Run, beyond, list, page, seek_page};

/// Where keys come from.
enum Source {
    /// A sorted part in memory: those at `range`.
    Memory { part: Arc<Part>, range: std::ops::Range<usize> },
    /// A run on the disk: the page read last, and those of its keys at `range`.
    Disk { run: Run, place: Place, keys: Vec<Key>, range: std::ops::Range<usize> },
}

/// How far a run was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Unread,
    Page(i64),
    End,
}

/// Keys of one index, ascending or descending.
pub(crate) struct Candidates<'a> {
    /// Sees the runs as they were at the beginning.
    conn: Transaction<'static, Sqlite>,
    db: &'a Db,
    kind: Kind,
    from: Key,
    to: Key,
    ascending: bool,
    sources: Vec<Source>,
}

impl<'a> Candidates<'a> {
    /// All keys between `from` and `to`, both included.
    pub(crate) async fn new(
        index: &Index,
        pool: &SqlitePool,
        db: &'a Db,
        kind: Kind,
        (from, to): (Key, Key),
        ascending: bool,
    ) -> Result<Self, StoreError> {
        // In this order: what leaves the memory meanwhile is in a run.
        let parts = index.parts(kind, from, to);
        let mut conn = pool.begin().await.map_err(db.failed("search a run"))?;
        let runs = list(&mut conn).await.map_err(db.failed("search a run"))?;
        let in_memory = beyond(parts, kind, runs.last().map_or(0, |run| run.last_n)).map(|part| {
            let range = range_of(part.keys(kind), &from, &to);
            Source::Memory { part, range }
        });
        let on_disk =
            runs.into_iter().map(|run| Source::Disk { run, place: Place::Unread, keys: Vec::new(), range: 0..0 });
        let sources = in_memory.chain(on_disk).collect();
        Ok(Candidates { conn, db, kind, from, to, ascending, sources })
    }

    /// The next key, left in place.
    pub(crate) async fn peek(&mut self) -> Result<Option<Key>, StoreError> {
        Ok(self.best().await?.map(|(key, _)| key))
    }

    /// The next key.
    pub(crate) async fn next(&mut self) -> Result<Option<Key>, StoreError> {
        let Some((key, at)) = self.best().await? else { return Ok(None) };
        let (Source::Memory { range, .. } | Source::Disk { range, .. }) = &mut self.sources[at];
        if self.ascending {
            range.start += 1;
        } else {
            range.end -= 1;
        }
        Ok(Some(key))
    }

    async fn best(&mut self) -> Result<Option<(Key, usize)>, StoreError> {
        let mut best: Option<(Key, usize)> = None;
        let mut at = 0;
        while at < self.sources.len() {
            let Some(key) = self.head_of(at).await? else {
                self.sources.swap_remove(at);
                // The source that took this place may be the best so far under its old number: begin again.
                best = None;
                at = 0;
                continue;
            };
            if best.is_none_or(|(other, _)| if self.ascending { key < other } else { key > other }) {
                best = Some((key, at));
            }
            at += 1;
        }
        Ok(best)
    }

    async fn head_of(&mut self, at: usize) -> Result<Option<Key>, StoreError> {
        if let Source::Disk { range, .. } = &self.sources[at]
            && range.is_empty()
        {
            self.read_on(at).await?;
        }
        let (keys, range) = match &self.sources[at] {
            Source::Memory { part, range } => (part.keys(self.kind), range),
            Source::Disk { keys, range, .. } => (&keys[..], range),
        };
        if range.is_empty() {
            return Ok(None);
        }
        Ok(keys.get(if self.ascending { range.start } else { range.end - 1 }).copied())
    }

    /// Reads pages of a run until one has keys within the bounds, or no further one can.
    async fn read_on(&mut self, at: usize) -> Result<(), StoreError> {
        let Source::Disk { run, place, keys, range } = &mut self.sources[at] else { return Ok(()) };
        loop {
            let found = match *place {
                Place::End => return Ok(()),
                Place::Unread => {
                    let begin = if self.ascending { &self.from } else { &self.to };
                    seek_page(&mut self.conn, self.db, run, self.kind, begin, self.ascending).await?
                }
                Place::Page(no) => {
                    let no = if self.ascending { no + 1 } else { no - 1 };
                    page(&mut self.conn, self.db, run, self.kind, no).await?
                }
            };
            let Some((no, page)) = found else {
                *place = Place::End;
                return Ok(());
            };
            *place = Place::Page(no);
            *range = range_of(&page, &self.from, &self.to);
            let beyond = match self.ascending {
                true => page.last().is_none_or(|key| key > &self.to),
                false => page.first().is_none_or(|key| key < &self.from),
            };
            *keys = page;
            if beyond {
                *place = Place::End;
            }
            if range.start < range.end {
                return Ok(());
            }
        }
    }
}

fn range_of(keys: &[Key], from: &Key, to: &Key) -> std::ops::Range<usize> {
    keys.partition_point(|key| key < from)..keys.partition_point(|key| key <= to)
}
