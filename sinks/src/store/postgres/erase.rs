//! Destroying a user's personal fields in entries that are already written.
//!
//! The commit only marks the user: from then on readers see the fields as erased. Then, beside the commits, every entry
//! of the user is rewritten, keeping the digest of what it had, and last of all the key goes. A crash in between leaves the mark and
//! the key, and the next start goes on. What the rows before held goes with [`crate::store::postgres::erasures`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::store::StoreError;
use crate::store::block::{After, Texts};
use crate::store::chains::User;
use crate::store::covered::{erase_metadata, erase_state};
use crate::store::encoder::digest_of;
use crate::store::engine::{PASS_SHARE, lower_priority};
use crate::store::postgres::db::{Db, Role, answer, close};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::{Shared, cuts};
use crate::store::queue::Popped;

/// Entries rewritten in one transaction.
const ENTRIES: i64 = 2000;
/// A try that takes longer is given up with its connection: the server may be there and not answer.
const TRY_FOR: Duration = Duration::from_secs(60);

/// The rewriting thread: beside the commits, until there are no more.
pub(crate) async fn follow(shared: Arc<Shared>, db: Db, lease: Lease) {
    let mut is_lower = false;
    while let Popped::Item(users) = shared.erasing.pop(Duration::MAX) {
        if !std::mem::replace(&mut is_lower, true) {
            lower_priority();
        }
        let mut pause = Duration::from_millis(50);
        while let Err(error) = run(&users, &shared, &db, &lease).await {
            if lease.is_lost() {
                return;
            }
            tracing::error!(error = %topics::chain::chain(&error), "a user's entries are not erased yet; will retry");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_secs(5));
        }
    }
}

/// Rewrites all entries of these users and destroys their keys.
async fn run(users: &[u32], shared: &Shared, db: &Db, lease: &Lease) -> Result<(), StoreError> {
    let _alone = shared.rewriting.lock().await;
    let failed = db.failed("erase a user's entries");
    let mut conn = db.connect(Role::Load, &lease.connection_name()).await.map_err(&failed)?;
    for no in users.iter().copied() {
        let Some(user) = shared.chains.users().get(no).cloned().filter(|user| user.old_key.is_some()) else {
            continue;
        };
        let mut from = 0;
        loop {
            let started = Instant::now();
            let rewritten = async { Ok(rewrite(&mut conn, no, &user, from, db, lease).await) };
            let Some(last) = answer(TRY_FOR, rewritten).await.map_err(&failed)?? else { break };
            from = last;
            tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
        }
        answer(TRY_FOR, cuts::erase(&mut conn, no, &user)).await.map_err(&failed)?;
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
    if !lease.is_held(&mut transaction).await.map_err(&failed)? {
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
