//! What both engines do alike: taking commits in, encoding them on a thread of their own, and telling everyone once they
//! are durable. Between this and the disk each engine has its own writer, tables and reads.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use topics::commit::Commit;
use topics::ids::UserId;
use topics::time::Timestamp;
use topics::view::ViewSpec;

use crate::store::chains::{Chains, read};
use crate::store::changes::Changes;
use crate::store::cut::{Expiry, Line};
use crate::store::encoder::{Encoder, Group, weight};
use crate::store::erasures::Open;
use crate::store::pending::Pending;
use crate::store::queue::{Popped, Queue};
use crate::store::{Durable, OnDurable, StoreStatus};

/// Bounds and delays.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shortest time from one write to the next: commits that arrive meanwhile are written together.
    pub linger: Duration,
    /// Most events written together.
    pub group_events: usize,
    /// Events appended and not yet encoded, before `append` waits.
    pub queue_events: usize,
    /// Changed rows after which the tables are brought up to date at once.
    pub flush_rows: usize,
    /// The same while the backlog of a start is read: nobody waits for tables that are hours behind, and a row that
    /// changes again meanwhile is written once.
    pub backlog_rows: usize,
    /// Longest time that the tables may rest between two flushes.
    pub flush_after: Duration,
    /// Changed rows in memory, before commits wait for the tables.
    pub dirty_rows_max: usize,
    /// Audit entries whose keys gather in memory before they are written as a run (SQLite).
    pub run_entries: usize,
    /// Audit entries of a partition (PostgreSQL).
    pub partition_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            linger: Duration::from_millis(5),
            group_events: 20_000,
            queue_events: 40_000,
            flush_rows: 300_000,
            backlog_rows: 4_000_000,
            flush_after: Duration::from_secs(5),
            dirty_rows_max: 6_000_000,
            run_entries: 1 << 18,
            partition_entries: 1 << 20,
        }
    }
}

/// Passes that remove audit entries by age take at most one part in this many and one of the time, and begin no sooner
/// than this after one another.
pub(crate) const PASS_SHARE: u32 = 4;
pub(crate) const PASS_PAUSE: Duration = Duration::from_millis(200);

/// Erasures that may wait until entries are rewritten, before commits wait.
const ERASING_MAX: usize = 100_000;

/// What the threads and readers of a store share, whatever its engine.
pub(crate) struct Engine {
    pub(crate) views: Arc<[ViewSpec]>,
    pub(crate) chains: Arc<Chains>,
    pub(crate) commits: Queue<Arc<Commit>>,
    pub(crate) groups: Queue<Group>,
    pub(crate) pending: Pending,
    pub(crate) listeners: RwLock<Vec<OnDurable>>,
    pub(crate) durable: Durability,
    /// Last commit appended.
    pub(crate) appended: AtomicU64,
    /// Weight of what was appended and is not durable.
    pub(crate) unwritten: AtomicU64,
    /// Durable audit entries.
    pub(crate) entries: AtomicU64,
    /// Entries removed by age, and chains of which some were.
    pub(crate) removed: AtomicU64,
    pub(crate) cuts: AtomicU64,
    pub(crate) expiry: Expiry,
    /// Held by who rewrites or removes entries that are written: one at a time.
    pub(crate) rewriting: tokio::sync::Mutex<()>,
    pub(crate) tasks: AtomicI64,
    /// Durable dead letters: none is removed.
    letters: AtomicU64,
    /// Last commit that the tables hold.
    pub(crate) applied: AtomicU64,
    pub(crate) last_commit_us: AtomicU64,
    failing: Mutex<Option<String>>,
    pub(crate) stop: Arc<AtomicU64>,
    /// Users whose entries are to be rewritten: groups of them, each once its erasure is durable.
    pub(crate) erasing: Queue<Vec<u32>>,
    pub(crate) erasures: Open,
}

/// Where a store stands when it is opened.
pub(crate) struct Start {
    /// Last durable commit.
    pub(crate) n: u64,
    /// Durable audit entries.
    pub(crate) entries: u64,
    /// Entries removed by age, and chains of which some were.
    pub(crate) removed: u64,
    pub(crate) cuts: u64,
    /// Tasks that are not deleted.
    pub(crate) tasks: usize,
    /// Last commit that the tables hold.
    pub(crate) applied: u64,
    /// Dead letters.
    pub(crate) letters: u64,
}

impl Engine {
    pub(crate) fn new(views: &[ViewSpec], chains: Arc<Chains>, options: &Options, start: Start) -> Engine {
        Engine {
            views: views.into(),
            chains,
            commits: Queue::new(options.queue_events),
            groups: Queue::new(1),
            pending: Pending::new(options.dirty_rows_max),
            listeners: RwLock::default(),
            durable: Durability::new(start.n),
            appended: AtomicU64::new(start.n),
            unwritten: AtomicU64::new(0),
            entries: AtomicU64::new(start.entries),
            removed: AtomicU64::new(start.removed),
            cuts: AtomicU64::new(start.cuts),
            expiry: Expiry::default(),
            rewriting: tokio::sync::Mutex::new(()),
            tasks: AtomicI64::new(start.tasks as i64),
            letters: AtomicU64::new(start.letters),
            applied: AtomicU64::new(start.applied),
            last_commit_us: AtomicU64::new(0),
            failing: Mutex::default(),
            stop: Arc::default(),
            erasing: Queue::new(ERASING_MAX),
            erasures: Open::default(),
        }
    }

    pub(crate) fn set_failing(&self, why: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Takes the next commit; blocks while too much is on its way.
    pub(crate) fn append(&self, commit: Arc<Commit>) {
        let weight = weight(&commit);
        self.unwritten.fetch_add(weight as u64, Ordering::Relaxed);
        self.appended.store(commit.n, Ordering::Release);
        self.commits.push(commit, weight);
    }

    /// Has audit entries older than `before` removed.
    pub(crate) fn expire(&self, before: Timestamp, now: Timestamp) {
        self.expiry.set(Line { before, now });
    }

    /// Waits until commit `n` is durable.
    pub(crate) async fn wait_durable(&self, n: u64) {
        let mut watch = self.durable.watch.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = watch.wait_for(|now| *now >= n).await;
    }

    /// Goes on with erasures that a crash interrupted.
    pub(crate) fn resume_erasures(&self) {
        let open: Vec<u32> = {
            let users = self.chains.users();
            users.iter().filter(|(_, user)| user.old_key.is_some()).map(|(no, _)| no).collect()
        };
        if !open.is_empty() {
            self.erasing.push(open, 1);
        }
    }

    /// What says, other than 0, that the store is to stop.
    pub(crate) fn stopping(&self) -> Arc<AtomicU64> {
        self.stop.clone()
    }

    /// Nothing more is taken; what was appended is still written.
    pub(crate) fn stop(&self) {
        self.commits.close();
        self.expiry.close();
        self.pending.end();
        self.stop.store(1, Ordering::Release);
    }

    /// Audit entries that readers see.
    fn kept_entries(&self) -> u64 {
        let removed = self.removed.load(Ordering::Acquire);
        self.entries.load(Ordering::Acquire).saturating_sub(removed) + self.cuts.load(Ordering::Acquire)
    }

    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            committed_n: self.durable.get(),
            applied_n: self.applied.load(Ordering::Acquire),
            table_lag_ms: self.pending.age().as_millis() as u64,
            entries: self.kept_entries(),
            tasks: self.tasks.load(Ordering::Relaxed).max(0) as u64,
            dirty_rows: self.pending.rows() as u64,
            queued_events: self.unwritten.load(Ordering::Relaxed),
            last_commit_us: self.last_commit_us.load(Ordering::Relaxed),
            failing: self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            dead_letters: self.letters.load(Ordering::Acquire),
            erasures: self.erasures.get(),
        }
    }

    /// Makes a written group visible to readers and tells everyone. `index` is what the engine itself has to do before
    /// anybody is told. Returns what the tables are to take over.
    pub(crate) fn finish(&self, group: Group, started: Instant, index: impl FnOnce(&Group)) -> Option<Changes> {
        let empty = group.is_empty();
        if !empty {
            for (chain, head) in &group.changes.heads {
                self.chains.set_head(*chain, *head);
            }
            index(&group);
            self.erasures.add(group.erasures.len() + group.late.len());
        }
        let Group { commits, hashes, changes, weight, .. } = group;
        if !empty {
            for task in commits.iter().flat_map(|commit| &commit.tasks) {
                match (&task.before, &task.after) {
                    (None, Some(_)) => self.tasks.fetch_add(1, Ordering::Relaxed),
                    (Some(_), None) => self.tasks.fetch_sub(1, Ordering::Relaxed),
                    _ => 0,
                };
            }
            let letters = commits.iter().map(|commit| commit.dead_letters.len()).sum::<usize>();
            self.letters.fetch_add(letters as u64, Ordering::AcqRel);
            self.entries.store(changes.entries, Ordering::Release);
            self.last_commit_us.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        let n = commits.last().map_or(0, |commit| commit.n);
        self.unwritten.fetch_sub(weight as u64, Ordering::Relaxed);
        let durable = Durable { commits, hashes, n };
        for listener in read(&self.listeners).iter() {
            listener(&durable);
        }
        // Who waits for a commit finds that the relay and the streams know of it.
        self.durable.set(n);
        (!empty).then_some(changes)
    }
}

/// The last durable commit, for those who wait for one.
pub(crate) struct Durability {
    n: Mutex<u64>,
    moved: Condvar,
    watch: tokio::sync::watch::Sender<u64>,
}

impl Durability {
    fn new(n: u64) -> Self {
        Durability { n: Mutex::new(n), moved: Condvar::new(), watch: tokio::sync::watch::Sender::new(n) }
    }

    pub(crate) fn get(&self) -> u64 {
        *self.watch.borrow()
    }

    pub(crate) fn set(&self, n: u64) {
        *self.n.lock().unwrap_or_else(PoisonError::into_inner) = n;
        self.moved.notify_all();
        self.watch.send_replace(n);
    }

    pub(crate) fn wait_blocking(&self, n: u64) {
        let mut now = self.n.lock().unwrap_or_else(PoisonError::into_inner);
        while *now < n {
            now = self.moved.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Runs asynchronous work on a thread of its own.
pub(crate) fn thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    thread_of(name, move || work)
}

/// As [`thread`], for work that cannot be moved once it was begun.
pub(crate) fn thread_of<W: Future<Output = ()>>(
    name: &str,
    begin: impl FnOnce() -> W + Send + 'static,
) -> JoinHandle<()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a thread of the store needs a timer and a waker").block_on(begin());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("the store needs its threads")
}

/// What projections of the journal cost must not be taken from those who wait for a commit. Threads that this thread
/// starts are as it is.
pub fn lower_priority() {
    const NICE: i32 = 5;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

/// The encoding thread.
pub(crate) async fn encode(mut encoder: Encoder, shared: impl std::ops::Deref<Target = Engine>, options: Options) {
    let mut next = Instant::now();
    loop {
        let Popped::Item(commit) = shared.commits.pop(Duration::MAX) else { break };
        let mut group = Group::default();
        wait_for_erasures(&shared, &commit);
        encoder.add(commit, &mut group);
        loop {
            if group.weight >= options.group_events || !group.erased.is_empty() {
                break;
            }
            let left = next.saturating_duration_since(Instant::now());
            match shared.commits.pop(left) {
                Popped::Item(commit) => {
                    wait_for_erasures(&shared, &commit);
                    encoder.add(commit, &mut group);
                }
                // While the writer has one group at work and one at hand, this one may as well grow.
                Popped::Nothing if shared.groups.weight() > 0 => next = Instant::now() + Duration::from_millis(1),
                Popped::Nothing | Popped::Closed => break,
            }
        }
        encoder.close(&mut group, shared.durable.get());
        shared.groups.push(group, 1);
        next = Instant::now() + options.linger;
    }
    shared.groups.close();
}

/// A second erasure of a user must not find the first one's key: it waits until that is gone, which is soon. The first
/// one's group is on its way: groups end with an erasure.
fn wait_for_erasures(shared: &Engine, commit: &Commit) {
    let is_open = |user: &UserId| {
        let users = shared.chains.users();
        users.no(user).and_then(|no| users.get(no)).is_some_and(|user| user.old_key.is_some())
    };
    while commit.erased.iter().any(|erasure| is_open(&erasure.user)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}
