//! The store's own threads: the encoder, the keeper of runs, and how the background ones are started.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use crate::store::encoder::{Encoder, Group};
use crate::store::queue::Popped;
use crate::store::sqlite::db::{Db, close};
use crate::store::sqlite::{Options, Shared, runs};

/// Runs asynchronous work on a thread of its own.
pub(crate) fn thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a thread of the store needs a timer and a waker").block_on(work);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("the store needs four threads")
}

/// What projections of the journal cost must not be taken from those who wait for a commit. The threads of SQLite that
/// this thread starts are as it is.
pub(crate) fn lower_priority() {
    const NICE: i32 = 5;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

/// Opens a file that was open before, for a thread of its own; tries until it works or the store is closed.
pub(crate) async fn open_again(shared: &Shared, db: &Db) -> Option<SqliteConnection> {
    loop {
        match db.open_plain().await {
            Ok(conn) => return Some(conn),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a file cannot be opened again; will retry");
                shared.set_failing(Some(error.to_string()));
            }
        }
        if shared.stop.load(Ordering::Acquire) != 0 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The encoding thread.
pub(crate) async fn encode(mut encoder: Encoder, shared: Arc<Shared>, options: Options) {
    let mut next = Instant::now();
    loop {
        let Popped::Item(commit) = shared.commits.pop(Duration::MAX) else { break };
        let mut group = Group::default();
        encoder.add(commit, &mut group);
        loop {
            if group.weight >= options.group_events || !group.erased.is_empty() {
                break;
            }
            let left = next.saturating_duration_since(Instant::now());
            match shared.commits.pop(left) {
                Popped::Item(commit) => encoder.add(commit, &mut group),
                // While the writer has one group at work and one at hand, this one may as well grow.
                Popped::Nothing if shared.groups.weight() > 0 => next = Instant::now() + Duration::from_millis(1),
                Popped::Nothing | Popped::Closed => break,
            }
        }
        encoder.close(&mut group, shared.durable.get());
        let last = group.commits.last().map_or(0, |commit| commit.n);
        let erased = !group.erased.is_empty();
        shared.groups.push(group, 1);
        next = Instant::now() + options.linger;
        if erased {
            wait_for_erasure(&shared, last);
        }
    }
    shared.groups.close();
}

/// Until the keys of erased users are gone: a second erasure of one of them must not find the first one's key.
fn wait_for_erasure(shared: &Shared, n: u64) {
    shared.durable.wait_blocking(n);
    while shared.chains.users().iter().any(|(_, user)| user.old_key.is_some()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The thread that writes and merges runs.
pub(crate) async fn index_runs(shared: Arc<Shared>, db: Db) {
    lower_priority();
    let Some(mut conn) = open_again(&shared, &db).await else { return };
    while shared.stop.load(Ordering::Acquire) == 0 {
        match runs::advance(&mut conn, &shared.index).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(source) => {
                let error = db.failed("write a run")(source);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the audit's indexes stay in memory; will retry"
                );
            }
        }
        std::thread::park_timeout(Duration::from_millis(250));
    }
    close(conn).await;
}
