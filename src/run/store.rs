//! The store that the command line and the settings ask for, opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::SourceError;
use broker::log::Log;
use query_api::status::Waiting as Needs;
use sinks::store::{DataDir, Database, Lease, Options, Postgres, Sqlite, Store, StoreError, Waiting};
use topics::commit::{NextOffset, Restored};
use topics::record::SourceTopic;
use topics::view::ViewSpec;
use tracing::{info, warn};

use super::porch::Porch;
use crate::settings::{Secret, Settings};

/// Pause after a database that could not be opened.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Longest time for one statement that answers a reader, beyond the query's own limit.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);

/// Opens the store: the database at `url`, else the embedded one. `porch` tells why that takes long; `from_log` says that
/// everything comes from the embedded log. An error where `fits` refuses the committed positions, and where waiting does
/// not help.
pub(super) async fn open(
    url: Option<&Secret>,
    settings: &Settings,
    held: &DataDir,
    views: &[ViewSpec],
    porch: &Porch,
    from_log: bool,
    fits: impl Fn(&[NextOffset]) -> Result<(), SourceError>,
) -> anyhow::Result<(Arc<dyn Store>, Restored)> {
    let (store, restored): (Arc<dyn Store>, Restored) = match url.or(settings.store.url.as_ref()) {
        None => {
            let (store, restored) = embedded(held, views, from_log).await?;
            (store, restored)
        }
        Some(url) => {
            let (store, restored) = open_database(&database(url, settings)?, settings, views, porch, &fits).await?;
            (store, restored)
        }
    };
    if let Err(error) = fits(&restored.positions) {
        // The right one may be waiting for it.
        store.close().await;
        return Err(error.into());
    }
    Ok((store, restored))
}

/// The store in the data directory. Tables that are damaged, and that the journal alone cannot make again, are made again
/// from the log where that still has every record, as after a loss of the whole store.
async fn embedded(held: &DataDir, views: &[ViewSpec], from_log: bool) -> Result<(Arc<Sqlite>, Restored), StoreError> {
    match Sqlite::open(held, views, Options::default()).await {
        Err(StoreError::Damaged { file, what, .. })
            if from_log && file.ends_with("views.db") && has_every_record(held.path()).await =>
        {
            let file = file.display();
            warn!(%file, what, "the tables are damaged; the log has every record, so everything is made again from it");
            Sqlite::set_aside(held)?;
            Sqlite::open(held, views, Options::default()).await
        }
        opened => opened,
    }
}

/// Whether the embedded log was never trimmed.
async fn has_every_record(dir: &Path) -> bool {
    let Ok(log) = Log::open_read_only(dir).await else { return false };
    let topics = [SourceTopic::TaskEvents, SourceTopic::UserEvents];
    let trimmed = topics.iter().any(|topic| log.starts(topic.name()).iter().any(|(_, start)| *start > 0));
    log.close().await;
    !trimmed
}

/// Waits for the lease of a database and opens it, as often as it takes: the server may go away in the midst of that,
/// and another process that starts at the same time may be faster.
async fn open_database(
    database: &Database,
    settings: &Settings,
    views: &[ViewSpec],
    porch: &Porch,
    fits: impl Fn(&[NextOffset]) -> Result<(), SourceError>,
) -> anyhow::Result<(Arc<Postgres>, Restored)> {
    loop {
        let lease = wait_for_lease(database, settings, porch, &fits).await?;
        match Postgres::open(database, lease.clone(), views, Options::default()).await {
            Ok(opened) => return Ok(opened),
            Err(error) if lease.is_lost() || error.is_passing() => {
                let why = topics::chain::chain(&error).to_string();
                warn!(why, "the database could not be opened; will try again");
                porch.waits_for(Needs::Database, &why);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The database at `url`.
pub fn database(url: &Secret, settings: &Settings) -> anyhow::Result<Database> {
    let patience = settings.query_timeout + STATEMENT_GRACE;
    Database::at(&url.0, patience).context("store.url (--store) cannot be read")
}

/// Who this process is, for those who look who has the lease.
pub fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// Takes the lease, as a standby until it is free.
async fn wait_for_lease(
    database: &Database,
    settings: &Settings,
    porch: &Porch,
    fits: impl Fn(&[NextOffset]) -> Result<(), SourceError>,
) -> anyhow::Result<Lease> {
    let holder = holder();
    let fits = |positions: &[NextOffset]| fits(positions).map_err(Into::into);
    let mut was_standby = false;
    let taken = database.lease(&holder, settings.store.lease, fits, |why| match why {
        Waiting::Standby { holder } => {
            info!(holder, "standby: another process has the lease of the database");
            was_standby = true;
            porch.stands_by();
        }
        Waiting::Unreachable { why } => {
            warn!(why, "the database cannot be reached; will try again");
            porch.waits_for(Needs::Database, &why);
        }
    });
    let lease = taken.await?;
    if was_standby {
        info!("took over the lease of the database");
    }
    porch.waits_for(Needs::CatchUp, "the store is loaded");
    Ok(lease)
}
