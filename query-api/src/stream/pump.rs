//! The task behind one open stream: walks the ring, filters, and fills the queue that the HTTP body empties.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::debug;

use super::{EventId, Hub, Selection, Shown};
use crate::serve::Connection;

/// Where a stream begins.
pub(crate) enum Start {
    /// With the next change.
    Now,
    /// After an event that the client has.
    After(EventId),
    /// The client's place is no longer known: it is told so.
    Reset,
}

/// The present rows, for a reader that begins with them; changes follow from after commit `n`, the oldest that a topic
/// was read at ([`Followed`](super::Followed) says from where for each). A row that cannot be read ends the stream.
pub(crate) struct Snapshot {
    pub n: u64,
    pub rows: BoxStream<'static, Option<Shown>>,
}

/// Everything that a reader asked for.
pub(crate) struct Reader {
    pub start: Start,
    pub snapshot: Option<Snapshot>,
    pub selection: Selection,
    /// The connection, where there is one: a reader that does not read is closed by it.
    pub connection: Option<Connection>,
}

/// Why a stream ended.
enum End {
    /// The reader is gone, or the process ends.
    Closed,
    /// The reader did not keep up.
    Slow,
    /// Rows of the snapshot could not be read.
    Broken,
}

/// A row of a snapshot may take longer than a change: nothing happens behind a reader that is still loading.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// Changes that are looked at before others get their turn on this thread.
const YIELD_EVERY: u32 = 2048;

/// Counts an open stream as long as it lives.
struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Starts the task of a stream and gives the end of its queue; `None` when there are as many as there may be.
pub(crate) fn open(hub: &Arc<Hub>, reader: Reader) -> Option<mpsc::Receiver<Bytes>> {
    // `inc` returns the value before, so that two that come at once cannot both take the last place.
    if hub.clients.inc() >= hub.config.clients_max as i64 {
        hub.clients.dec();
        return None;
    }
    let counted = Counted(hub.clients.clone());
    // Taken before the answer begins: what the client causes after it has the answer comes later.
    let now = EventId::before(hub.latest() + 1);
    let (queue, body) = mpsc::channel(hub.config.buffer.max(1));
    let pump = Pump { hub: hub.clone(), queue, connection: reader.connection.clone() };
    tokio::spawn(async move {
        let connection = reader.connection.clone();
        let closing = async {
            match &connection {
                Some(connection) => connection.closing().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = pump.run(reader, now) => match end {
                End::Closed => {}
                End::Slow => {
                    debug!("a stream's reader did not keep up; closed");
                    if let Some(connection) = &pump.connection {
                        connection.abandon();
                    }
                }
                End::Broken => debug!("a stream's snapshot could not be read; closed"),
            },
            () = pump.queue.closed() => {}
            () = closing => {}
        }
        drop(counted);
    });
    Some(body)
}

struct Pump {
    hub: Arc<Hub>,
    queue: mpsc::Sender<Bytes>,
    connection: Option<Connection>,
}

impl Pump {
    async fn run(&self, reader: Reader, now: EventId) -> End {
        match self.follow(reader, now).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&self, reader: Reader, now: EventId) -> Result<std::convert::Infallible, End> {
        let mut published = self.hub.published.subscribe();
        let mut place = self.begin(reader.start, reader.snapshot, now).await?;
        let beat = self.hub.config.heartbeat;
        let mut heartbeat = interval_at(Instant::now() + beat, beat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            published.borrow_and_update();
            for batch in self.hub.after(place).map_err(|_| End::Slow)? {
                for (id, change) in batch.changes_after(place) {
                    if let Some(shown) = reader.selection.show(batch.n, change) {
                        self.send(shown.frame(Some(id)), self.hub.config.patience).await?;
                    }
                    if id.i % YIELD_EVERY == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                place = EventId::before(batch.n + 1);
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| End::Closed)?,
                _ = heartbeat.tick() => {
                    // A full queue needs no sign of life.
                    let _ = self.queue.try_send(Bytes::from_static(b": hb\n\n"));
                }
            }
        }
    }

    /// The first lines, and the place from which changes follow.
    async fn begin(&self, start: Start, snapshot: Option<Snapshot>, now: EventId) -> Result<EventId, End> {
        let patience = self.hub.config.patience;
        let first = match (&start, &snapshot) {
            // An id without data is no event, but a client that loses the connection before the first one
            // comes back with it.
            (Start::Now, None) => format!("retry: 3000\nid: {now}\n\n"),
            (Start::Now | Start::After(_), _) => "retry: 3000\n\n".to_owned(),
            (Start::Reset, None) => format!("retry: 3000\n\nevent: reset\nid: {now}\ndata: {{}}\n\n"),
            (Start::Reset, Some(_)) => "retry: 3000\n\nevent: reset\ndata: {}\n\n".to_owned(),
        };
        self.send(Bytes::from(first), patience).await?;
        match (start, snapshot) {
            (Start::After(id), _) => Ok(id),
            (_, None) => Ok(now),
            (_, Some(Snapshot { n, mut rows })) => {
                while let Some(row) = rows.next().await {
                    self.send(row.ok_or(End::Broken)?.frame(None), SNAPSHOT_PATIENCE).await?;
                }
                let place = EventId::before(n + 1);
                self.send(Bytes::from(format!("event: live\nid: {place}\ndata: {{}}\n\n")), patience).await?;
                Ok(place)
            }
        }
    }

    async fn send(&self, frame: Bytes, patience: Duration) -> Result<(), End> {
        match self.queue.try_send(frame) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(End::Closed),
            Err(mpsc::error::TrySendError::Full(frame)) => match timeout(patience, self.queue.send(frame)).await {
                Ok(sent) => sent.map_err(|_| End::Closed),
                Err(_) => Err(End::Slow),
            },
        }
    }
}
