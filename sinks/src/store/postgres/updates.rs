//! Changes that are kept until they are published: the pipeline itself stands on the list of replicas, for good.

use sqlx::postgres::{PgConnection, PgPool};
use topics::commit::Commit;
use topics::view::ViewSpec;

use crate::store::StoreError;
use crate::store::postgres::db::{Db, SNAPSHOT};
use crate::store::postgres::load;
use crate::store::replica::commit_of;

/// Its name on the list.
const PUBLISHER: &str = "task-updates";

/// Keeps changes from the last commit on, or from where publishing stopped.
pub(crate) async fn keep(pool: &PgPool, db: &Db) -> Result<u64, StoreError> {
    // A state that was put back is never behind what is published.
    let n: i64 = sqlx::query_scalar(
        "INSERT INTO replica (id, n, seen_at) SELECT $1, n, 'infinity' FROM state \
         ON CONFLICT (id) DO UPDATE SET n = least(replica.n, excluded.n), seen_at = 'infinity' RETURNING n",
    )
    .bind(PUBLISHER)
    .fetch_one(pool)
    .await
    .map_err(db.failed("keep changes"))?;
    Ok(n as u64)
}

pub(crate) async fn forget(pool: &PgPool, db: &Db) -> Result<(), StoreError> {
    let forgotten = sqlx::query("DELETE FROM replica WHERE id = $1").bind(PUBLISHER).execute(pool).await;
    forgotten.map(drop).map_err(db.failed("keep no changes"))
}

/// Never backwards: a process that lost the lease may be slow to notice.
pub(crate) async fn published(pool: &PgPool, db: &Db, n: u64) -> Result<(), StoreError> {
    let told = sqlx::query("UPDATE replica SET n = greatest(n, $2) WHERE id = $1").bind(PUBLISHER).bind(n as i64);
    told.execute(pool).await.map(drop).map_err(db.failed("note what is published"))
}

/// Groups of commits after `n`.
pub(crate) async fn after(
    (pool, db): (&PgPool, &Db),
    views: &[ViewSpec],
    n: u64,
    limit: usize,
) -> Result<Vec<Commit>, StoreError> {
    let failed = db.failed("read changes");
    let mut snapshot = pool.begin_with(SNAPSHOT).await.map_err(&failed)?;
    let conn: &mut PgConnection = &mut snapshot;
    // What is missing before the first one was published.
    let first: Option<i64> = sqlx::query_scalar("SELECT after_n FROM delta WHERE n > $1 ORDER BY n LIMIT 1")
        .bind(n as i64)
        .fetch_optional(&mut *conn)
        .await
        .map_err(&failed)?;
    let Some(first) = first else { return Ok(Vec::new()) };
    let mut groups = Vec::new();
    for mut changes in load::deltas(conn, db, views, first as u64, limit as i64).await? {
        load::fill_in(conn, db, &mut changes).await?;
        groups.push(commit_of(changes));
    }
    Ok(groups)
}
