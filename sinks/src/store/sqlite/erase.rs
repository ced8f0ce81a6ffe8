//! Destroying a user's personal fields in entries that are already written.
//!
//! The commit only marks the user: from then on readers see the fields as erased. Then, beside the commits, every block
//! with an entry of the user is rewritten, each entry keeping the digest of what it had, and last of all the key goes. A crash in
//! between leaves the mark and the key, and the next start goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::store::StoreError;
use crate::store::block::{Codec, block_of};
use crate::store::encoder::erase_in_block;
use crate::store::engine::{PASS_SHARE, lower_priority};
use crate::store::queue::Popped;
use crate::store::sqlite::audit::{BLOCK_COLUMNS, block_from};
use crate::store::sqlite::db::{Checkpoint, Db, checkpoint, close};
use crate::store::sqlite::threads::open_again;
use crate::store::sqlite::{Shared, cuts};

/// Blocks rewritten in one transaction: a commit waits for no more than that.
const BLOCKS: usize = 16;

/// The rewriting thread: beside the commits, until there are no more.
pub(crate) async fn follow(shared: Arc<Shared>, db: Db) {
    let mut conn: Option<SqliteConnection> = None;
    while let Popped::Item(users) = shared.erasing.pop(Duration::MAX) {
        let conn = match &mut conn {
            Some(open) => open,
            none => {
                lower_priority();
                let Some(opened) = open_again(&shared, &db).await else { return };
                none.insert(opened)
            }
        };
        let mut pause = Duration::from_millis(50);
        while let Err(error) = run(conn, &users, &shared, &db).await {
            tracing::error!(error = %topics::chain::chain(&error), "a user's entries are not erased yet; will retry");
            if shared.stop.load(Ordering::Acquire) != 0 {
                // The next start goes on with it.
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_secs(5));
            db.open_anew(conn).await;
        }
    }
    if let Some(mut conn) = conn {
        // The journal's writer has emptied the log before this thread was done, and may have gone.
        if let Err(error) = checkpoint(&mut conn, Checkpoint::Truncate).await {
            tracing::warn!(%error, "the journal's log stays beside it until the next start");
        }
        close(conn).await;
    }
}

/// Rewrites all blocks of these users and destroys their keys.
async fn run(conn: &mut SqliteConnection, users: &[u32], shared: &Shared, db: &Db) -> Result<(), StoreError> {
    let _alone = shared.rewriting.lock().await;
    for no in users {
        let Some(user) = shared.chains.users().get(*no).cloned().filter(|user| user.old_key.is_some()) else {
            continue;
        };
        let mut blocks: Vec<u64> = shared.audit.numbers_of_user(*no, user.erased_to).await?;
        blocks.iter_mut().for_each(|n| *n = block_of(*n));
        blocks.sort_unstable();
        blocks.dedup();
        let mut codec = Codec::new();
        for some in blocks.chunks(BLOCKS) {
            let started = Instant::now();
            rewrite(conn, some, *no, &user, &mut codec, db).await?;
            tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
        }
        erase_cuts(conn, *no, &user).await.map_err(db.failed("erase a user's entries"))?;
        let forget = sqlx::query("UPDATE user_key SET old_key = NULL WHERE no = ?").bind(i64::from(*no));
        forget.execute(&mut *conn).await.map_err(db.failed("erase a user's key"))?;
        if let Some(user) = shared.chains.users_mut().get_mut(*no) {
            user.old_key = None;
        }
    }
    shared.audit.forget();
    shared.journal_changed.store(true, Ordering::Release);
    Ok(())
}

/// The states that removed entries left.
async fn erase_cuts(
    conn: &mut SqliteConnection,
    no: u32,
    user: &crate::store::chains::User,
) -> Result<(), sqlx::Error> {
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
    cuts::erase(&mut transaction, no, user).await?;
    transaction.commit().await
}

async fn rewrite(
    conn: &mut SqliteConnection,
    blocks: &[u64],
    no: u32,
    user: &crate::store::chains::User,
    codec: &mut Codec,
    db: &Db,
) -> Result<(), StoreError> {
    let failed = db.failed("erase a user's entries");
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    for first in blocks {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first = ?")))
            .bind(*first as i64)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        // Removed by age.
        let Some(row) = row else { continue };
        let mut block = block_from(&row, db)?;
        if erase_in_block(&mut block, no, user) > 0 {
            sqlx::query("UPDATE audit_block SET data = ? WHERE first = ?")
                .bind(codec.encode(&block))
                .bind(*first as i64)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
    }
    transaction.commit().await.map_err(&failed)
}
