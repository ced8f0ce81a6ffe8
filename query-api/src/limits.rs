//! What there is little of, and how it is shared out: bytes of answers under way, threads that search, exports.
//!
//! Each has a bound for all callers together and a share for each of them, so that one caller cannot take it all. A
//! caller is the user who asks, or the address where nobody says who he is.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Caller;
use crate::problem::{Code, Problem};

/// Bytes of a page, after which it ends early.
pub const PAGE_BYTES: usize = 4 << 20;
/// Answers up to this size are not counted: connections are bounded.
pub const SMALL_BYTES: usize = 64 << 10;
/// Bytes are counted in these.
const UNIT: usize = 1 << 10;
/// Searches that run or wait, for each thread that searches.
const SEARCHES_A_THREAD: usize = 128;

/// Bounds of everything that is shared out.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Bytes of answers under way, those that readers are slow to take included.
    pub answer_bytes: usize,
    /// Exports of the audit at once.
    pub exports: usize,
    /// Threads that search.
    pub search_threads: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Bounds { answer_bytes: 256 << 20, exports: 4, search_threads: cores }
    }
}

/// Who asks, for sharing out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who(Arc<str>);

impl Who {
    /// The user who asks, else the address that he asks from.
    pub fn of(caller: &Caller, peer: Option<IpAddr>) -> Who {
        match (caller.subject(), peer) {
            (Some(user), _) => Who(format!("user {user}").into()),
            (None, Some(peer)) => Who(format!("peer {peer}").into()),
            (None, None) => Who("".into()),
        }
    }
}

/// Everything that is shared out.
#[derive(Debug)]
pub struct Limits {
    answers: Places,
    /// Exports of the audit.
    pub(crate) exports: Places,
    searches: Places,
    threads: Arc<Semaphore>,
}

impl Limits {
    /// Limits with these bounds.
    pub fn new(bounds: &Bounds) -> Limits {
        let units = (bounds.answer_bytes / UNIT).max(2);
        let threads = bounds.search_threads.max(1);
        let searches = threads * SEARCHES_A_THREAD;
        Limits {
            answers: Places::new("answers", units, units / 2),
            exports: Places::new("exports", bounds.exports, bounds.exports.div_ceil(2)),
            searches: Places::new("searches", searches, searches / 2),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Waits, at most `patience`, until an answer of so many bytes may be made. One that is larger than all that may be
    /// under way waits until nothing else of this caller's is.
    pub async fn hold(&self, who: &Who, bytes: usize, patience: Duration) -> Result<Place, Problem> {
        let held = tokio::time::timeout(patience, self.answers.take(who, bytes.div_ceil(UNIT)));
        held.await.map_err(|_| self.answers.full())
    }

    /// Runs a search on one of few threads. When the asker no longer waits, it is told to stop by its flag.
    pub async fn search<T: Send + 'static>(
        &self,
        who: &Who,
        search: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.searches.try_take(who, 1)?;
        let thread = self.threads.clone().acquire_owned().await.expect("the semaphore is never closed");
        let asker = Asker(Arc::default());
        let gone = asker.0.clone();
        let run = move || {
            let found = search(&gone);
            drop((place, thread));
            found
        };
        let found = tokio::task::spawn_blocking(run).await;
        found.map_err(|_| Problem::internal())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new(&Bounds::default())
    }
}

/// Somebody who waits for a search; sets its flag when he is gone.
struct Asker(Arc<AtomicBool>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Places of one kind.
pub struct Places {
    what: &'static str,
    all: usize,
    free: Arc<Semaphore>,
    share: usize,
    /// The share of each caller who has a place or waits for one.
    shares: Arc<Mutex<HashMap<Who, Arc<Semaphore>>>>,
}

impl Places {
    fn new(what: &'static str, all: usize, share: usize) -> Places {
        Places { what, all, free: Arc::new(Semaphore::new(all)), share: share.max(1), shares: Arc::default() }
    }

    /// `number` places, or as many as a caller may have; at once, or a problem that says to try again.
    pub fn try_take(&self, who: &Who, number: usize) -> Result<Place, Problem> {
        let (share, number) = (self.share_of(who), self.possible(number));
        let own = share.0.clone().try_acquire_many_owned(number).ok();
        let free = self.free.clone().try_acquire_many_owned(number).ok();
        match (own, free) {
            (Some(own), Some(free)) => Ok(Place { own, free, _share: share }),
            _ => Err(self.full()),
        }
    }

    /// The same, waiting until there are so many.
    async fn take(&self, who: &Who, number: usize) -> Place {
        let (share, number) = (self.share_of(who), self.possible(number));
        const OPEN: &str = "the semaphores are never closed";
        let own = share.0.clone().acquire_many_owned(number).await.expect(OPEN);
        let free = self.free.clone().acquire_many_owned(number).await.expect(OPEN);
        Place { own, free, _share: share }
    }

    fn possible(&self, number: usize) -> u32 {
        u32::try_from(number.min(self.share)).unwrap_or(u32::MAX)
    }

    fn share_of(&self, who: &Who) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shares.entry(who.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.share)));
        Share(own.clone(), who.clone(), self.shares.clone())
    }

    fn full(&self) -> Problem {
        let Places { what, .. } = self;
        Problem::new(Code::TooManyRequests, format!("As many {what} are under way as may be at once; try again."))
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} free", self.what, self.free.available_permits(), self.all)
    }
}

/// A caller's share, which is forgotten with the last who holds it.
struct Share(Arc<Semaphore>, Who, Arc<Mutex<HashMap<Who, Arc<Semaphore>>>>);

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.2.lock().unwrap_or_else(PoisonError::into_inner);
        // This one, and the one in the map.
        if Arc::strong_count(&self.0) == 2 {
            shares.remove(&self.1);
        }
    }
}

/// Places that are held until this is dropped.
pub struct Place {
    own: OwnedSemaphorePermit,
    free: OwnedSemaphorePermit,
    /// Last: the permits are given back before it is asked whether anybody holds some.
    _share: Share,
}

impl Place {
    /// Gives back what `bytes` do not need.
    pub fn shrink(&mut self, bytes: usize) {
        let needless = self.free.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop((self.own.split(needless), self.free.split(needless)));
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} places", self.free.num_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Who {
        Who(name.into())
    }

    #[tokio::test]
    async fn one_caller_gets_his_share_and_no_more() {
        let places = Places::new("exports", 4, 2);
        let (ann, bob) = (who("ann"), who("bob"));
        let held: Vec<_> = (0..2).map(|_| places.try_take(&ann, 1).unwrap()).collect();
        let refused = places.try_take(&ann, 1).unwrap_err();
        assert_eq!(refused.code(), Code::TooManyRequests);
        let others: Vec<_> = (0..2).map(|_| places.try_take(&bob, 1).unwrap()).collect();
        assert!(places.try_take(&who("cid"), 1).is_err(), "all are taken");
        drop(others);
        assert!(places.try_take(&ann, 1).is_err(), "his share is still taken");
        assert!(places.try_take(&who("cid"), 1).is_ok());
        drop(held);
        assert!(places.try_take(&ann, 1).is_ok());
        assert!(places.shares.lock().unwrap().is_empty(), "nobody holds anything");
    }

    #[tokio::test]
    async fn bytes_are_waited_for_and_given_back() {
        let limits = Limits::new(&Bounds { answer_bytes: 8 << 20, ..Bounds::default() });
        let (ann, bob) = (who("ann"), who("bob"));
        let never = Duration::from_millis(1);
        let long = Duration::from_secs(60);
        // More than there is: all of the share.
        let mut large = limits.hold(&ann, 100 << 20, never).await.unwrap();
        assert!(limits.hold(&ann, 1 << 20, never).await.is_err());
        let other = limits.hold(&bob, 4 << 20, never).await.unwrap();
        large.shrink(1 << 20);
        let more = limits.hold(&ann, 3 << 20, never).await.unwrap();
        let waiting = limits.hold(&ann, 2 << 20, long);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(never, &mut waiting).await.is_err());
        drop(more);
        drop(waiting.await.unwrap());
        drop((large, other));
        assert!(limits.answers.shares.lock().unwrap().is_empty());
        assert_eq!(limits.answers.free.available_permits(), limits.answers.all);
    }

    #[tokio::test]
    async fn a_search_stops_when_nobody_waits_for_it() {
        let limits = Limits::new(&Bounds { search_threads: 1, ..Bounds::default() });
        let (ended, stopped) = std::sync::mpsc::channel();
        let (began, running) = tokio::sync::oneshot::channel();
        let ann = who("ann");
        let search = limits.search(&ann, move |gone: &AtomicBool| {
            began.send(()).unwrap();
            while !gone.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        });
        tokio::select! {
            _ = search => unreachable!("it goes on until it is told to stop"),
            _ = running => {}
        }
        // Dropped above. The only thread is free again, too.
        stopped.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(limits.search(&ann, |_| 7).await.unwrap(), 7);
        let places: Vec<_> = (0..SEARCHES_A_THREAD / 2).map(|_| limits.searches.try_take(&ann, 1).unwrap()).collect();
        let refused = limits.search(&ann, |_| 7).await.unwrap_err();
        assert_eq!(refused.code(), Code::TooManyRequests);
        drop(places);
    }
}
