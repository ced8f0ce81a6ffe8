//! The body of one open stream: made piece by piece as the connection asks for it.
//!
//! Nothing is made ahead. The reader's place in the ring, and the rest of its snapshot as pointers, are all that is kept
//! of it; what is made for it is at most a few pieces that the socket has not taken yet.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use chrono_tz::Tz;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use topics::Timestamp;
use topics::audit::ShownEntry;
use tracing::debug;

use super::clients::{Rows, Seat, TooMany};
use super::ring::{Batch, Lost};
use super::{EventId, Hub, Selection, Shown};
use crate::index::Index;
use crate::routes::AuditReader;
use crate::serve::Connection;

/// Where a stream begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the next change.
    Now,
    /// After an event that the client has.
    After(EventId),
    /// The client's place is no longer known: it is told so.
    Reset,
}

/// The present rows, for a reader that begins with them. A row that cannot be read ends the stream.
pub(crate) struct Snapshot {
    pub rows: BoxStream<'static, Option<Shown>>,
    /// Counts them as long as they wait.
    pub _held: Rows,
}

/// What is visible at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// After all of it.
    pub place: EventId,
    /// The instant that day words mean.
    pub as_of: Timestamp,
    /// Audit entries.
    pub entries: u64,
}

/// A zone whose days somebody follows, until this is dropped.
pub(crate) struct Days {
    hub: Arc<Hub>,
    zone: Tz,
    /// From here on its turns are known.
    since: EventId,
}

impl Drop for Days {
    fn drop(&mut self) {
        self.hub.write_stage().calendar.leave(self.zone);
    }
}

impl Hub {
    /// Has the turns of a zone told from now on.
    pub(crate) fn follow_days(self: &Arc<Self>, index: &Index, zone: Tz, now: Timestamp) -> Days {
        let mut stage = self.write_stage();
        self.turn_stage(&mut stage, index, now);
        let (as_of, place) = (stage.as_of, stage.place);
        let since = stage.calendar.enter(zone, as_of, place);
        Days { hub: self.clone(), zone, since }
    }

    /// Calls `look` while nothing becomes visible: what it reads of the index is of one state with the place.
    pub(crate) fn still<T>(&self, look: impl FnOnce(Opening) -> T) -> T {
        let stage = self.read_stage();
        look(Opening { place: stage.place, as_of: stage.as_of, entries: stage.entries })
    }

    /// Where a client that has `id` goes on.
    pub(crate) fn start(&self, id: &str, selection: &Selection, days: Option<&Days>) -> Start {
        let Some((id, process)) = EventId::parse(id) else { return Start::Reset };
        // Words that move with the time are gone on with only where all their turns are known, and in their zone.
        let turns = days.is_none_or(|days| process == Some(self.number_of(days.zone)) && days.since <= id);
        // Without them nothing depends on turns but the place among them.
        let own = id.t == 0 || days.is_some();
        let ring = self.read_ring();
        let kept = own && turns && ring.keeps(id) && !ring.took_out(id, selection.who());
        if kept { Start::After(id) } else { Start::Reset }
    }

    /// The number that ids have in this process and this zone.
    fn number_of(&self, zone: Tz) -> u32 {
        zone.name().bytes().fold(self.process, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
    }

    /// Room for the rows of a snapshot.
    pub(crate) fn hold_rows(&self, rows: usize) -> Result<Rows, TooMany> {
        self.clients.hold(rows)
    }
}

/// Everything that a stream is made of.
pub(crate) struct Reader {
    pub start: Start,
    /// Where it begins unless it goes on.
    pub place: EventId,
    pub snapshot: Option<Snapshot>,
    pub selection: Selection,
    pub days: Option<Days>,
    /// Whether another zone is meant by now.
    pub moved: Option<Box<dyn Fn() -> bool + Send + Sync>>,
    pub seat: Seat,
    /// The audit, for entries that are no longer at hand.
    pub audit: Arc<dyn AuditReader>,
    /// The connection, where there is one.
    pub connection: Option<Connection>,
    /// When the right to read ends.
    pub until: Option<SystemTime>,
}

/// Bytes after which a piece is handed over.
const PIECE_BYTES: usize = 8 * 1024;
/// From this size on a row is handed over as it is, shared with other readers, and not copied.
const SHARED_BYTES: usize = 2 * 1024;
/// Changes that are looked at before others get their turn on this thread.
const YIELD_EVERY: u32 = 2048;

/// The body of a stream.
pub(crate) fn body(hub: Arc<Hub>, reader: Reader) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let beat = hub.config.heartbeat;
    let mut heartbeat = interval_at(Instant::now() + beat, beat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let published = hub.published.subscribe();
    let phase = Phase::Head;
    let place = match reader.start {
        Start::After(id) => id,
        Start::Now | Start::Reset => reader.place,
    };
    let following =
        Following { hub, reader, published, heartbeat, phase, place, named: false, ready: Pieces::default() };
    futures::stream::unfold(following, |mut following| async move {
        following.reader.seat.asks();
        let piece = following.piece().await?;
        following.reader.seat.got(following.place);
        Some((Ok(piece), following))
    })
}

/// Why a stream ended.
enum End {
    /// The right to read, or the process, ends.
    Closed,
    /// What comes next is no longer known.
    Lost,
    /// Rows or entries could not be read.
    Broken,
}

impl From<Lost> for End {
    fn from(_: Lost) -> End {
        End::Lost
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Rows,
    Live,
    Changes,
    End,
}

struct Following {
    hub: Arc<Hub>,
    reader: Reader,
    published: watch::Receiver<EventId>,
    heartbeat: Interval,
    phase: Phase,
    /// All up to here is in what was made.
    place: EventId,
    /// The client has an id.
    named: bool,
    ready: Pieces,
}

impl Following {
    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.ready.next() {
                return Some(piece);
            }
            let made = match self.phase {
                Phase::Head => {
                    self.head();
                    Ok(())
                }
                Phase::Rows => self.rows().await,
                Phase::Live => self.live().await,
                Phase::Changes => self.changes().await,
                Phase::End => return None,
            };
            if let Err(end) = made {
                match end {
                    End::Closed => {}
                    End::Lost => debug!("what a stream's reader lacks is no longer kept; closed"),
                    End::Broken => debug!("a stream could not be read on; closed"),
                }
                self.phase = Phase::End;
            }
            self.ready.close();
        }
    }

    /// Whether all before `place` is durable: an id of it will be known after a crash, too.
    fn is_told(&self, place: EventId) -> bool {
        *self.published.borrow() >= place
    }

    /// An id as this stream writes it.
    fn id(&self, id: EventId) -> String {
        match &self.reader.days {
            Some(days) => format!("{}-{}-{}-{}", id.n, id.i, id.t, self.hub.number_of(days.zone)),
            // The places of turns count for those alone that hear of them.
            None => EventId { t: 0, ..id }.to_string(),
        }
    }

    fn head(&mut self) {
        let place = self.id(self.place);
        self.ready.text("retry: 3000\n");
        let with_rows = self.reader.snapshot.is_some();
        match self.reader.start {
            Start::Now if !with_rows && self.is_told(self.place) => {
                // An id without data is no event, but a client that loses the connection before the first one comes
                // back with it.
                self.ready.text(&format!("id: {place}\n\n"));
                self.named = true;
            }
            Start::Now => self.ready.text("\n"),
            Start::After(_) => {
                self.ready.text("\n");
                self.named = true;
            }
            Start::Reset if !with_rows && self.is_told(self.place) => {
                self.ready.text(&format!("\nevent: reset\nid: {place}\ndata: {{}}\n\n"));
                self.named = true;
            }
            Start::Reset => self.ready.text("\nevent: reset\ndata: {}\n\n"),
        }
        self.phase = if with_rows { Phase::Rows } else { Phase::Changes };
    }

    async fn rows(&mut self) -> Result<(), End> {
        while let Some(snapshot) = &mut self.reader.snapshot
            && !self.ready.is_full()
        {
            let next = tokio::select! {
                next = snapshot.rows.next() => next,
                () = closing(self.reader.connection.as_ref(), self.reader.until) => return Err(End::Closed),
            };
            match next {
                Some(row) => self.ready.event(&row.ok_or(End::Broken)?, None),
                None => {
                    self.reader.snapshot = None;
                    self.phase = Phase::Live;
                }
            }
        }
        Ok(())
    }

    async fn live(&mut self) -> Result<(), End> {
        if !self.is_told(self.place) {
            return self.wait().await;
        }
        let id = self.id(self.place);
        self.ready.text(&format!("event: live\nid: {id}\ndata: {{}}\n\n"));
        self.named = true;
        self.phase = Phase::Changes;
        Ok(())
    }

    async fn changes(&mut self) -> Result<(), End> {
        if self.reader.moved.as_ref().is_some_and(|moved| moved()) {
            return Err(End::Lost);
        }
        // Before the look: what is published after it was not looked at.
        let upto = *self.published.borrow_and_update();
        let next = self.hub.next(self.place, self.reader.selection.who())?;
        let Some(batch) = next else {
            if !self.named && self.is_told(self.place) {
                let id = self.id(self.place);
                self.ready.text(&format!("id: {id}\n\n"));
                self.named = true;
                return Ok(());
            }
            self.place = self.place.max(upto);
            return self.wait().await;
        };
        let told = batch.told(self.place);
        let changes = batch.changes();
        for (at, change) in (0..).zip(changes).skip(told as usize) {
            if self.ready.is_full() {
                return Ok(());
            }
            self.place = batch.id(at);
            if let Some(shown) = self.reader.selection.show(&batch, change) {
                let id = self.id(self.place);
                self.ready.event(&shown, Some(&id));
                self.named = true;
            }
            if at % YIELD_EVERY == YIELD_EVERY - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.entries(&batch).await
    }

    /// The audit entries of a batch that are still to be told.
    async fn entries(&mut self, batch: &Batch) -> Result<(), End> {
        let own = batch.changes().len() as u32;
        let wanted = self.reader.selection.audit.is_some() && batch.entries.count > 0;
        if wanted {
            let shown = shown(&self.hub, &*self.reader.audit, batch).await?;
            let told = batch.told(self.place).saturating_sub(own);
            for (at, entry) in (0..).zip(shown.iter()).skip(told as usize) {
                if self.ready.is_full() {
                    return Ok(());
                }
                self.place = batch.id(own + at);
                if let Some(shown) = self.reader.selection.audit.as_ref().and_then(|audit| audit.show(entry)) {
                    let id = self.id(self.place);
                    self.ready.event(&shown, Some(&id));
                    self.named = true;
                }
            }
        }
        self.place = batch.end();
        Ok(())
    }

    /// Returns when something was published, or with a sign of life.
    async fn wait(&mut self) -> Result<(), End> {
        tokio::select! {
            changed = self.published.changed() => changed.map_err(|_| End::Closed),
            _ = self.heartbeat.tick() => {
                self.ready.text(": hb\n\n");
                Ok(())
            }
            () = closing(self.reader.connection.as_ref(), self.reader.until) => Err(End::Closed),
        }
    }
}

/// The audit entries of a batch: as they were shown when it was published, or read from the store.
async fn shown(hub: &Hub, audit: &dyn AuditReader, batch: &Batch) -> Result<Arc<[ShownEntry]>, End> {
    if let Some(shown) = batch.entries.shown() {
        return Ok(shown);
    }
    let (before, count) = (batch.entries.before, batch.entries.count);
    let read = audit.range(before + 1, before + u64::from(count)).await;
    let shown = read.map_err(|error| {
        tracing::error!(%error, cause = ?error.source(), "could not read the audit for a stream");
        End::Broken
    })?;
    if shown.len() != count as usize {
        // Some were removed by age: nobody can go on from before them.
        hub.ring.write().expect("a panic aborts the process").drop_through(batch.end());
        return Err(End::Lost);
    }
    Ok(shown.into())
}

/// Returns when the process ends, or the right to read.
async fn closing(connection: Option<&Connection>, until: Option<SystemTime>) {
    let expiry = async {
        match until {
            // One that is past has a wait of none.
            Some(until) => tokio::time::sleep(until.duration_since(SystemTime::now()).unwrap_or_default()).await,
            None => std::future::pending().await,
        }
    };
    let shutdown = async {
        match connection {
            Some(connection) => connection.closing().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = expiry => {}
        () = shutdown => {}
    }
}

/// What was made and not yet handed over: small texts together, large rows as they are.
#[derive(Default)]
struct Pieces {
    made: VecDeque<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn text(&mut self, text: &str) {
        self.open.extend_from_slice(text.as_bytes());
    }

    /// An event as it goes over the wire; rows of a snapshot have no id.
    fn event(&mut self, shown: &Shown, id: Option<&str>) {
        for part in ["event: ", shown.name, ".", shown.verb, "\n"] {
            self.text(part);
        }
        if let Some(id) = id {
            for part in ["id: ", id, "\n"] {
                self.text(part);
            }
        }
        self.text("data: ");
        if shown.data.len() >= SHARED_BYTES {
            self.close();
            self.made.push_back(shown.data.clone());
        } else {
            self.open.extend_from_slice(&shown.data);
        }
        self.text("\n\n");
    }

    fn is_full(&self) -> bool {
        self.open.len() + self.made.iter().map(Bytes::len).sum::<usize>() >= PIECE_BYTES
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.made.push_back(self.open.split().freeze());
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        self.made.pop_front()
    }
}
