//! Destroying a user's personal fields in entries that are already written.
//!
//! The commit only marks the user: from then on readers see the fields as erased. Then every entry of the user is
//! rewritten, keeping the digest of what it had, and last of all the key goes. A crash in between leaves the mark and
//! the key, and the next start goes on. What the rows before held is freed by a vacuum.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::store::StoreError;
use crate::store::block::{After, Texts};
use crate::store::chains::User;
use crate::store::covered::{erase_metadata, erase_state};
use crate::store::encoder::digest_of;
use crate::store::postgres::db::{Db, Role, answer, close};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::{Shared, cuts};

/// Entries rewritten in one transaction.
const ENTRIES: i64 = 2000;
/// A try that takes longer is given up with its connection: the server may be there and not answer.
const TRY_FOR: Duration = Duration::from_secs(60);
/// How long the server may take to free what rows of a table held before.
const VACUUM_WITHIN: Duration = Duration::from_secs(600);

/// Rewrites all entries of these users and destroys their keys.
pub(crate) async fn run(users: Vec<u32>, shared: Arc<Shared>, db: Db, lease: Lease) -> Result<(), StoreError> {
    let (db, lease) = (&db, &lease);
    let _alone = shared.rewriting.lock().await;
    let failed = db.failed("erase a user's entries");
    let mut conn = db.connect(Role::Load, &lease.connection_name()).await.map_err(&failed)?;
    for no in users {
        let Some(user) = shared.chains.users().get(no).cloned().filter(|user| user.old_key.is_some()) else {
            continue;
        };
        let mut from = 0;
        loop {
            let rewritten = async { Ok(rewrite(&mut conn, no, &user, from, db, lease).await) };
            let Some(last) = answer(TRY_FOR, rewritten).await.map_err(&failed)?? else { break };
            from = last;
        }
        cuts::erase(&mut conn, no, &user).await.map_err(&failed)?;
        let forgotten = sqlx::query(
            "WITH held AS (SELECT FROM lease WHERE part_set = 0 AND epoch = $2 FOR SHARE) \
             UPDATE user_key SET old_key = NULL WHERE no = $1 AND EXISTS (SELECT FROM held)",
        )
        .bind(i64::from(no))
        .bind(lease.epoch)
        .execute(&mut conn);
        let forgotten = answer(TRY_FOR, forgotten).await.map_err(db.failed("erase a user's key"))?;
        if forgotten.rows_affected() != 1 {
            lease.lose();
            return Err(StoreError::Closed);
        }
        if let Some(user) = shared.chains.users_mut().get_mut(no) {
            user.old_key = None;
        }
    }
    vacuum(&mut conn, ["audit_entry", "audit_cut", "user_key"].into_iter()).await;
    close(conn).await;
    Ok(())
}

/// Rewrites the next entries after `from`, and gives the last one's number.
async fn rewrite(
    conn: &mut PgConnection,
    no: u32,
    user: &User,
    from: i64,
    db: &Db,
    lease: &Lease,
) -> Result<Option<i64>, StoreError> {
    let failed = db.failed("erase a user's entries");
    let mut transaction = conn.begin().await.map_err(&failed)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_entry e WHERE e.user_no = $1 AND e.n > $2 AND e.n <= $3 ORDER BY e.n LIMIT $4"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(i64::from(no))
        .bind(from)
        .bind(user.erased_to as i64)
        .bind(ENTRIES)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
    let Some(last) = rows.last().map(|row| sqlx::Row::get::<i64, _>(row, 0)) else { return Ok(None) };
    let (mut numbers, mut digests, mut states, mut metadata) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let entry = read(row, db)?;
        let (digest, state, nameless) = erased(&entry, user);
        numbers.push(entry.n as i64);
        digests.push(digest);
        states.push(state);
        metadata.push(nameless);
    }
    sqlx::query(
        "UPDATE audit_entry e SET personal = given.personal, after_state = given.after_state, \
         metadata = given.metadata FROM unnest($1::int8[], $2::bytea[], $3::text[], $4::text[]) \
         AS given (n, personal, after_state, metadata) WHERE e.n = given.n AND e.n BETWEEN $5 AND $6",
    )
    .bind(&numbers)
    .bind(digests)
    .bind(states)
    .bind(metadata)
    .bind(numbers[0])
    .bind(last)
    .execute(&mut *transaction)
    .await
    .map_err(&failed)?;
    let held = sqlx::query("SELECT FROM lease WHERE part_set = 0 AND epoch = $1 FOR SHARE")
        .bind(lease.epoch)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(&failed)?;
    if held.is_none() {
        lease.lose();
        return Err(StoreError::Closed);
    }
    transaction.commit().await.map_err(&failed)?;
    Ok(Some(last))
}

/// An entry without what is personal: digest, state, metadata.
fn erased(entry: &Entry, user: &User) -> (Vec<u8>, Option<String>, String) {
    let Texts { after, metadata, .. } = entry.texts();
    // An entry with the state of another one has had its digest from the start.
    let digest = entry.slot.personal.unwrap_or_else(|| {
        let key = user.old_key.expect("only users with a key to destroy are erased");
        digest_of(&entry.slot, after, metadata, &key)
    });
    let state =
        (entry.slot.after_kind == After::Here).then(|| erase_state(&entry.slot, metadata, after, user.erased_at));
    let metadata = erase_metadata(&entry.slot, metadata, user.erased_at).unwrap_or_else(|| metadata.to_owned());
    (digest.to_vec(), state, metadata)
}

/// Frees what rows of these tables held before. Left to the server when it does not work now.
pub(crate) async fn vacuum(conn: &mut PgConnection, tables: impl Iterator<Item = &'static str>) {
    for table in tables {
        let sql = format!("VACUUM (SKIP_LOCKED) \"{table}\"");
        if let Err(error) = answer(VACUUM_WITHIN, sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn)).await {
            tracing::warn!(%error, table, "erased rows are freed by the server's own vacuum only");
        }
    }
}
