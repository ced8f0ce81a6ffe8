//! Destroying a user's personal fields in entries that are already written.
//!
//! The commit only marks the user: from then on readers see the fields as erased. Then every block with an entry of
//! the user is rewritten, each entry keeping the digest of what it had, and last of all the key goes. A crash in
//! between leaves the mark and the key, and the next start goes on.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::store::StoreError;
use crate::store::block::{Codec, block_of};
use crate::store::encoder::erase_in_block;
use crate::store::sqlite::audit::{BLOCK_COLUMNS, block_from};
use crate::store::sqlite::db::{Checkpoint, Db, checkpoint};
use crate::store::sqlite::{Shared, cuts};

/// Blocks rewritten in one transaction.
const BLOCKS: usize = 128;

/// Rewrites all blocks of these users and destroys their keys.
pub(crate) async fn run(
    conn: &mut SqliteConnection,
    users: &[u32],
    shared: &Shared,
    db: &Db,
) -> Result<(), StoreError> {
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
            rewrite(conn, some, *no, &user, &mut codec, db).await?;
        }
        erase_cuts(conn, *no, &user).await.map_err(db.failed("erase a user's entries"))?;
        let forget = sqlx::query("UPDATE user_key SET old_key = NULL WHERE no = ?").bind(i64::from(*no));
        forget.execute(&mut *conn).await.map_err(db.failed("erase a user's key"))?;
        if let Some(user) = shared.chains.users_mut().get_mut(*no) {
            user.old_key = None;
        }
    }
    shared.audit.forget();
    checkpoint(conn, Checkpoint::Truncate).await.map_err(db.failed("erase a user"))?;
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
