//! The lease: who may write. One process does, another waits and takes over.
//!
//! The lease is a row with an epoch. A process that finds it expired takes the next epoch; every transaction that
//! changes something checks its own epoch on that row under a lock, so a process that was held up and goes on later
//! finds its epoch gone and can commit nothing, whatever it believed of the time. Time only decides when a takeover is
//! tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use topics::commit::NextOffset;

use crate::store::StoreError;
use crate::store::postgres::db::{Db, Role, Tables, answer, close, is_passing};
use crate::store::postgres::load;

/// Names of connections that write begin so: what is left of them is ended at a takeover.
const WRITER: &str = "tasktide-writer ";
/// How often a waiting process looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the server may take for one of the questions.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The right to write, for as long as its epoch is the newest.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(crate) epoch: i64,
    pub(crate) lasts: Duration,
    lost: Arc<watch::Sender<bool>>,
    released: Arc<AtomicBool>,
}

/// What a process that waits for the lease is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Another process holds the lease: this one is a standby.
    Standby {
        /// Who holds it.
        holder: String,
    },
    /// The database cannot be reached.
    Unreachable {
        /// Why.
        why: String,
    },
}

impl Lease {
    /// Waits until the lease is free, and takes it. `waiting` is told why it is not, whenever that changes.
    pub(crate) async fn take(
        db: &Db,
        holder: &str,
        lasts: Duration,
        fits: impl Fn(&[NextOffset]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
        mut waiting: impl FnMut(Waiting),
    ) -> Result<Lease, StoreError> {
        let fits = |positions: &[NextOffset]| fits(positions).map_err(|source| db.of_another(source));
        let mut told = None;
        let mut prepared = false;
        loop {
            let why = match try_take(db, holder, lasts, &fits, &mut prepared).await {
                Ok(Ok(epoch)) => {
                    return Ok(Lease {
                        epoch,
                        lasts,
                        lost: Arc::new(watch::Sender::new(false)),
                        released: Arc::default(),
                    });
                }
                Ok(Err(holder)) => Waiting::Standby { holder },
                Err(StoreError::Database { source, doing, file }) if is_passing(&source) => {
                    let error = StoreError::Database { source, doing, file };
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                    Waiting::Unreachable { why: format!("{error}{}", cause.unwrap_or_default()) }
                }
                Err(error) => return Err(error),
            };
            if told.as_ref() != Some(&why) {
                waiting(why.clone());
                told = Some(why);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Name of connections that write under this lease.
    pub(crate) fn connection_name(&self) -> String {
        format!("{WRITER}{}", self.epoch)
    }

    /// Another process has taken over: nothing can be written any more.
    pub(crate) fn lose(&self) {
        self.lost.send_if_modified(|lost| {
            if !*lost {
                // Before anybody hears of it: the process ends at once then.
                tracing::error!(epoch = self.epoch, "another process took over the lease; nothing more is written");
            }
            !std::mem::replace(lost, true)
        });
    }

    /// Whether it is known that another process has taken over.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Whether it still holds, for the rest of the transaction under way: whoever wants to take over waits for its end.
    pub(crate) async fn is_held(&self, transaction: &mut PgConnection) -> Result<bool, sqlx::Error> {
        is_held(transaction, self.epoch).await
    }

    /// Returns once another process has taken over.
    pub(crate) async fn lost(&self) {
        // The sender lives in `self`.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// Keeps it from expiring while nothing is committed; until it is lost or released.
    pub(crate) async fn keep(self, db: Db) {
        let name = self.connection_name();
        let mut conn: Option<PgConnection> = None;
        while !self.is_lost() && !self.released.load(Ordering::Acquire) {
            let renewed = async {
                let conn = match &mut conn {
                    Some(conn) => conn,
                    none => none.insert(db.connect(Role::Write, &name).await?),
                };
                renew(conn, &self).await
            };
            match tokio::time::timeout(self.lasts, renewed).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => self.lose(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "could not renew the lease; will try again");
                    conn = None;
                }
                Err(_) => conn = None,
            }
            tokio::time::sleep(self.lasts / 4).await;
        }
        if let Some(conn) = conn {
            close(conn).await;
        }
    }

    /// Gives it back, so that a standby need not wait.
    pub(crate) async fn release(&self, db: &Db) {
        self.released.store(true, Ordering::Release);
        if self.is_lost() {
            return;
        }
        let given_back = async {
            let mut conn = db.connect(Role::Write, &self.connection_name()).await?;
            sqlx::query("UPDATE lease SET expires_at = '-infinity' WHERE part_set = 0 AND epoch = $1")
                .bind(self.epoch)
                .execute(&mut conn)
                .await?;
            close(conn).await;
            Ok::<(), sqlx::Error>(())
        };
        if let Err(error) = answer(ANSWERS_WITHIN, given_back).await {
            tracing::warn!(%error, "the lease was not given back; it expires by itself");
        }
    }
}

/// As [`Lease::is_held`], of an epoch.
pub(crate) async fn is_held(transaction: &mut PgConnection, epoch: i64) -> Result<bool, sqlx::Error> {
    let held = sqlx::query("SELECT FROM lease WHERE part_set = 0 AND epoch = $1 FOR SHARE").bind(epoch);
    Ok(held.fetch_optional(transaction).await?.is_some())
}

async fn renew(conn: &mut PgConnection, lease: &Lease) -> Result<bool, sqlx::Error> {
    let renewed = sqlx::query(
        "UPDATE lease SET expires_at = clock_timestamp() + $2 * interval '1 millisecond' \
         WHERE part_set = 0 AND epoch = $1",
    )
    .bind(lease.epoch)
    .bind(lease.lasts.as_millis() as f64)
    .execute(conn)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

/// The new epoch, or who holds the lease.
async fn try_take(
    db: &Db,
    holder: &str,
    lasts: Duration,
    fits: impl Fn(&[NextOffset]) -> Result<(), StoreError>,
    prepared: &mut bool,
) -> Result<Result<i64, String>, StoreError> {
    let failed = db.failed("take the lease");
    let mut conn = db.connect(Role::Write, "tasktide-standby").await.map_err(db.failed("connect"))?;
    // Tables that another process is just making, or those of an older version, are brought up to date at the takeover.
    match answer(ANSWERS_WITHIN, db.tables(&mut conn)).await.map_err(&failed)? {
        Tables::None => db.prepare(&mut conn).await?,
        Tables::Older => {}
        Tables::Whole => {
            let asked = async { Ok::<_, sqlx::Error>(load::positions(&mut conn, db).await) };
            fits(&answer(ANSWERS_WITHIN, asked).await.map_err(&failed)??)?;
        }
    }
    let asked = sqlx::query("SELECT holder, expires_at < clock_timestamp(), epoch FROM lease WHERE part_set = 0")
        .fetch_optional(&mut conn);
    let row =
        answer(ANSWERS_WITHIN, asked).await.map_err(&failed)?.ok_or_else(|| db.damaged("its lease is missing"))?;
    if !row.get::<bool, _>(1) {
        return Ok(Err(row.get(0)));
    }
    // Not earlier: the tables must not change under an older version that still writes.
    if !*prepared {
        db.prepare(&mut conn).await?;
        *prepared = true;
    }
    // What the process before left half done holds locks that the next one needs. Only what belongs to the epoch that
    // was found expired, or to one before it: another process may have taken the next epoch since.
    let ended = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
         AND usename = current_user AND CASE WHEN application_name ~ $1 \
         THEN substr(application_name, length($2) + 1)::int8 <= $3 ELSE false END",
    )
    .bind(format!("^{WRITER}[0-9]{{1,18}}$"))
    .bind(WRITER)
    .bind(row.get::<i64, _>(2))
    .execute(&mut conn);
    answer(ANSWERS_WITHIN, ended).await.map_err(&failed)?;
    let taken = sqlx::query_scalar(
        "UPDATE lease SET holder = $1, epoch = epoch + 1, expires_at = clock_timestamp() + $2 * interval '1 millisecond' \
         WHERE part_set = 0 AND expires_at < clock_timestamp() RETURNING epoch",
    )
    .bind(holder)
    .bind(lasts.as_millis() as f64)
    .fetch_optional(&mut conn);
    let epoch: Option<i64> = answer(ANSWERS_WITHIN, taken).await.map_err(&failed)?;
    let taken = match epoch {
        Some(epoch) => Ok(epoch),
        // Another process was faster.
        None => {
            let asked = sqlx::query_scalar("SELECT holder FROM lease WHERE part_set = 0").fetch_one(&mut conn);
            Err(answer(ANSWERS_WITHIN, asked).await.map_err(&failed)?)
        }
    };
    close(conn).await;
    Ok(taken)
}
