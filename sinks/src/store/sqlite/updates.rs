//! Changes that are kept until they are published.

use std::path::Path;

use sqlx::sqlite::SqlitePool;
use topics::commit::Commit;
use topics::view::ViewSpec;

use crate::store::StoreError;
use crate::store::replica::commit_of;
use crate::store::sqlite::db::Db;
use crate::store::sqlite::{load, registry};

fn unusable(dir: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |source| StoreError::Directory { dir: dir.to_owned(), source }
}

/// Keeps changes from the last commit on, or from where publishing stopped.
pub(crate) fn keep(dir: &Path, last: u64) -> Result<u64, StoreError> {
    match registry::published(dir).filter(|published| *published <= last) {
        Some(published) => Ok(published),
        // For the first time, or the journal was put back to an earlier state.
        None => registry::set_published(dir, last).map(|()| last).map_err(unusable(dir)),
    }
}

pub(crate) fn forget(dir: &Path) -> Result<(), StoreError> {
    registry::forget_published(dir).map_err(unusable(dir))
}

pub(crate) fn published(dir: &Path, n: u64) -> Result<(), StoreError> {
    registry::set_published(dir, n).map_err(unusable(dir))
}

/// Groups of commits after `n`.
pub(crate) async fn after(
    (journal, db): (&SqlitePool, &Db),
    views: &[ViewSpec],
    n: u64,
    limit: usize,
) -> Result<Vec<Commit>, StoreError> {
    let failed = db.failed("read changes");
    let mut snapshot = journal.begin().await.map_err(&failed)?;
    // What is missing before the first one was published: the number written down may be an older one.
    let first: Option<i64> = sqlx::query_scalar("SELECT after_n FROM delta WHERE n > ? ORDER BY n LIMIT 1")
        .bind(n as i64)
        .fetch_optional(&mut *snapshot)
        .await
        .map_err(&failed)?;
    let Some(first) = first else { return Ok(Vec::new()) };
    let mut groups = Vec::new();
    for mut changes in load::deltas(&mut snapshot, db, views, first as u64, limit as i64).await? {
        load::fill_in(&mut snapshot, db, &mut changes).await?;
        groups.push(commit_of(changes));
    }
    Ok(groups)
}
