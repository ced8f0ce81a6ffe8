//! The keeper of runs, and how the background threads open their files.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use crate::store::engine::lower_priority;
use crate::store::sqlite::db::{Db, close};
use crate::store::sqlite::{Shared, runs};

/// Opens a file that was open before, for a thread of its own; tries until it works or the store is closed.
pub(crate) async fn open_again(shared: &Shared, db: &Db) -> Option<SqliteConnection> {
    loop {
        match db.open_plain().await {
            Ok(conn) => return Some(conn),
            Err(error) => {
                tracing::error!(error = %topics::chain::chain(&error), "a file cannot be opened again; will retry");
                shared.set_failing(Some(error.to_string()));
            }
        }
        if shared.stop.load(Ordering::Acquire) != 0 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The thread that writes and merges runs.
pub(crate) async fn index_runs(shared: Arc<Shared>, db: Db) {
    lower_priority();
    let Some(mut conn) = open_again(&shared, &db).await else { return };
    while shared.stop.load(Ordering::Acquire) == 0 {
        let removed_to = shared.removed_to.load(Ordering::Acquire);
        match runs::advance(&mut conn, &shared.index, removed_to).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(source) => {
                let error = db.failed("write a run")(source);
                tracing::error!(
                    error = %topics::chain::chain(&error),
                    "the audit's indexes stay in memory; will retry"
                );
                db.open_anew(&mut conn).await;
            }
        }
        std::thread::park_timeout(Duration::from_millis(250));
    }
    close(conn).await;
}
