//! Bodies of requests: read here and nowhere else, within a budget that all share, and at a pace.
//!
//! A body is read once everything that its head tells was found good. It counts from its first byte until the request is
//! answered. What the head says of its length takes no memory: room grows with the bytes that came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::Connection;
use crate::problem::{Code, Problem};

/// Over how long the pace of a body is judged.
const PACE_OVER: Duration = Duration::from_secs(10);
/// Room of a body that has begun.
const FIRST_ROOM: usize = 64 << 10;

/// What bodies may take.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes of all bodies under way in the process.
    pub bytes_max: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// Bytes a second that one has to bring.
    pub rate_min: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        BodyLimits { bytes_max: 256 << 20, timeout: Duration::from_secs(120), rate_min: 4096 }
    }
}

/// The budget of all bodies.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    limits: BodyLimits,
    taken: Arc<AtomicUsize>,
}

/// What a body takes of the budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Share {
    /// Takes `more` bytes, if they are there.
    fn grow(&mut self, more: usize, max: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= max);
        let grown = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok();
        self.bytes += if grown { more } else { 0 };
        grown
    }
}

impl Bodies {
    pub(crate) fn new(limits: BodyLimits) -> Bodies {
        Bodies { limits, taken: Arc::default() }
    }

    /// Reads a body of at most `max` bytes. The share is to be kept until the request is answered.
    pub(crate) async fn read(
        &self,
        body: Body,
        max: usize,
        connection: &Connection,
    ) -> Result<(Bytes, Share), Problem> {
        connection.reading();
        let read = self.read_all(body, max, connection).await;
        connection.answering();
        // What is left of it is not read: the connection ends with the answer.
        read.map_err(|problem| problem.with_header(header::CONNECTION, HeaderValue::from_static("close")))
    }

    async fn read_all(&self, mut body: Body, max: usize, connection: &Connection) -> Result<(Bytes, Share), Problem> {
        let mut share = Share { bytes: 0, taken: self.taken.clone() };
        let length = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let mut pace = Pace::new(self.limits);
        let mut all = BytesMut::new();
        loop {
            let frame = tokio::select! {
                biased;
                () = connection.closing() => return Err(Problem::new(Code::NotReady, "The process is stopping.")),
                frame = body.frame() => frame,
                () = tokio::time::sleep_until(pace.judged_at()) => {
                    if pace.is_too_slow() {
                        return Err(Problem::new(Code::RequestTimeout, "The body did not come in time."));
                    }
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok((all.freeze(), share)) };
            let frame = frame.map_err(|_| Problem::new(Code::InvalidBody, "The body did not come whole."))?;
            let Ok(data) = frame.into_data() else { continue };
            connection.reading();
            pace.count(data.len());
            if all.len() + data.len() > max {
                return Err(too_large(max));
            }
            if all.is_empty() && length == Some(data.len()) {
                self.take(&mut share, data.len())?;
                return Ok((data, share));
            }
            let needed = all.len() + data.len();
            if needed > all.capacity() {
                let doubled = (all.capacity() * 2).max(FIRST_ROOM).min(length.unwrap_or(max));
                let room = doubled.max(needed);
                self.take(&mut share, room - all.capacity())?;
                all.reserve_exact_to(room);
            }
            all.extend_from_slice(&data);
        }
    }

    fn take(&self, share: &mut Share, more: usize) -> Result<(), Problem> {
        if share.grow(more, self.limits.bytes_max) {
            return Ok(());
        }
        let detail = "Bodies of other requests take all the room that there is; try again.";
        Err(Problem::new(Code::NotReady, detail).with_header(header::RETRY_AFTER, HeaderValue::from_static("1")))
    }
}

/// The body is larger than its resource takes.
pub(crate) fn too_large(max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("This resource takes at most {max} bytes."))
}

trait Room {
    /// Makes room for `bytes` in all, and no more.
    fn reserve_exact_to(&mut self, bytes: usize);
}

impl Room for BytesMut {
    fn reserve_exact_to(&mut self, bytes: usize) {
        let mut larger = BytesMut::with_capacity(bytes);
        larger.extend_from_slice(self);
        *self = larger;
    }
}

/// How fast a body comes.
struct Pace {
    limits: BodyLimits,
    ends_at: Instant,
    window_ends_at: Instant,
    in_window: u64,
}

impl Pace {
    fn new(limits: BodyLimits) -> Pace {
        let now = Instant::now();
        Pace { limits, ends_at: now + limits.timeout, window_ends_at: now + PACE_OVER, in_window: 0 }
    }

    fn count(&mut self, bytes: usize) {
        self.in_window += bytes as u64;
    }

    fn judged_at(&self) -> Instant {
        self.ends_at.min(self.window_ends_at)
    }

    /// Whether it may go on no longer, at the time at which that is judged.
    fn is_too_slow(&mut self) -> bool {
        let now = Instant::now();
        let wanted = self.limits.rate_min * PACE_OVER.as_secs();
        if now >= self.ends_at || self.in_window < wanted {
            return true;
        }
        (self.window_ends_at, self.in_window) = (now + PACE_OVER, 0);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::StatusCode;
    use futures::StreamExt;
    use futures::stream;

    use super::*;

    const MIB: usize = 1 << 20;

    fn bodies(bytes_max: usize) -> Bodies {
        Bodies::new(BodyLimits { bytes_max, ..BodyLimits::default() })
    }

    /// A body of chunks, one every so often.
    fn slowly(chunk: usize, every: Duration) -> Body {
        let chunks = stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(every).await;
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; chunk]))
        });
        Body::from_stream(chunks)
    }

    fn chunks(number: usize, bytes: usize) -> Body {
        Body::from_stream(stream::iter((0..number).map(move |_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes])))))
    }

    async fn status(bodies: &Bodies, body: Body, max: usize) -> StatusCode {
        match bodies.read(body, max, &Connection::default()).await {
            Ok(_) => StatusCode::OK,
            Err(problem) => problem.code().status(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_have_a_size_a_pace_and_an_end() {
        let bodies = bodies(8 * MIB);
        let second = Duration::from_secs(1);
        for (what, body, expected) in [
            ("empty", Body::empty(), 200),
            ("whole", Body::from("x".repeat(MIB)), 200),
            ("in parts", chunks(16, MIB / 16), 200),
            ("too large at once", Body::from("x".repeat(MIB + 1)), 413),
            ("too large in parts", chunks(17, MIB / 16), 413),
            ("nothing comes", slowly(0, second), 408),
            ("a byte a second", slowly(1, second), 408),
            ("just too slow", slowly(4000, second), 408),
            ("fast enough, and without end", slowly(5000, second), 408),
        ] {
            assert_eq!(status(&bodies, body, MIB).await.as_u16(), expected, "{what}");
            assert_eq!(bodies.taken.load(Ordering::SeqCst), 0, "{what}");
        }
    }

    #[tokio::test]
    async fn all_bodies_share_a_budget_and_give_it_back() {
        let bodies = bodies(4 * MIB);
        let connection = Connection::default();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(bodies.read(chunks(16, MIB / 16), MIB, &connection).await.unwrap());
        }
        assert!(bodies.taken.load(Ordering::SeqCst) <= 4 * MIB);
        assert_eq!(status(&bodies, chunks(16, MIB / 16), MIB).await, 503);
        assert_eq!(status(&bodies, Body::from("one"), MIB).await, 503);
        held.pop();
        assert_eq!(status(&bodies, chunks(8, MIB / 16), MIB).await, 200);
        assert!(held.iter().all(|(body, _)| body.len() == MIB && body.iter().all(|byte| *byte == b'x')));
        held.clear();
        assert_eq!(bodies.taken.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn who_stops_reads_no_more_of_a_body() {
        let connection = Connection::default();
        let bodies = bodies(MIB);
        let reading = bodies.read(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()), MIB, &connection);
        let (read, ()) = tokio::join!(reading, async { connection.close() });
        assert_eq!(read.unwrap_err().code(), Code::NotReady);
    }
}
