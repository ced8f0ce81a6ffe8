//! Indexes of the audit's partitions, beside the number of the entry, by which each is kept.
//!
//! A partition that is made while a backlog is read goes without them until it is full, or the backlog is read: then
//! they are made in bulk beside the commits, for a third of what they cost entry by entry. Meanwhile a reader goes
//! through that one partition. Any other has them from its first entry.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::store::engine::lower_priority;
use crate::store::postgres::db::{Db, Role, answer, close};
use crate::store::postgres::lease::Lease;

/// What readers need, and no more: the end of each index's name, and what it is on.
const INDEXES: [(&str, &str); 5] = [
    ("id", "(id)"),
    ("task", "(task_id, seq)"),
    ("user", "(user_no, timestamp)"),
    ("time", "(timestamp)"),
    // The chains of users' own entries.
    ("user_chain", "(user_no, seq) WHERE task_id IS NULL"),
];
/// Making one that takes longer is given up with its connection.
const TRY_FOR: Duration = Duration::from_secs(1800);
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What the writer tells of partitions.
#[derive(Debug)]
pub(crate) enum Told {
    /// There is a new one, which may lack indexes. Those before it are full.
    Made(String),
    /// The backlog is read.
    CaughtUp,
}

/// A partition that may lack indexes.
struct Bare {
    partition: String,
    /// Entries are still added.
    grows: bool,
    /// From an earlier run.
    found: bool,
}

/// The statements that make the indexes of a partition.
pub(crate) fn statements(partition: &str) -> impl Iterator<Item = String> {
    INDEXES.iter().map(move |(name, on)| format!("CREATE INDEX {partition}_{name} ON {partition} {on}"))
}

/// The thread that makes indexes, until the writer ends. `found` are the partitions that there are, in order.
pub(crate) async fn run(found: Vec<String>, mut told: UnboundedReceiver<Told>, db: Db, lease: Lease) {
    lower_priority();
    let last = found.len().saturating_sub(1);
    let found = found.into_iter().enumerate();
    let mut bare: Vec<Bare> = found.map(|(at, partition)| Bare { partition, grows: at == last, found: true }).collect();
    let mut caught_up = false;
    let mut maker = Maker { db, lease, conn: None, backend: None };
    loop {
        let next = bare.iter().position(|bare| bare.found || caught_up || !bare.grows);
        let work = next.map(|at| (bare[at].partition.clone(), bare[at].grows));
        let made = {
            let mut making = std::pin::pin!(maker.make_or_wait(work));
            loop {
                tokio::select! {
                    made = &mut making => break made,
                    news = told.recv() => match news {
                        Some(Told::Made(partition)) => {
                            bare.iter_mut().for_each(|bare| bare.grows = false);
                            bare.push(Bare { partition, grows: true, found: false });
                        }
                        Some(Told::CaughtUp) => caught_up = true,
                        None => return,
                    },
                }
                if next.is_none() {
                    break None;
                }
            }
        };
        // One that had entries added while its indexes were made has them all the same.
        bare.retain(|bare| made.as_ref() != Some(&bare.partition));
        if bare.is_empty()
            && let Some(conn) = maker.conn.take()
        {
            close(conn).await;
        }
    }
}

/// What makes indexes, by a connection of its own.
struct Maker {
    db: Db,
    lease: Lease,
    conn: Option<PgConnection>,
    backend: Option<i32>,
}

impl Maker {
    /// Makes the indexes of a partition, to which entries may be added meanwhile, and gives its name; `None` if it is
    /// to be tried again. Without a partition it never ends.
    async fn make_or_wait(&mut self, work: Option<(String, bool)>) -> Option<String> {
        let Some((partition, grows)) = work else { return std::future::pending().await };
        match answer(TRY_FOR, self.make(&partition, grows)).await {
            Ok(()) => Some(partition),
            Err(error) => {
                self.conn = None;
                let error = self.db.failed("make indexes of audit entries")(error);
                let error = topics::chain::chain(&error);
                tracing::warn!(error = %error, partition, "indexes cannot be made yet; will retry");
                tokio::time::sleep(TRY_AGAIN).await;
                None
            }
        }
    }

    async fn make(&mut self, partition: &str, grows: bool) -> Result<(), sqlx::Error> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => {
                let name = self.lease.connection_name();
                let conn = none.insert(self.db.connect_anew(Role::Load, &name, &mut self.backend).await?);
                // Readers and the writer need the other processors.
                let alone = "SET maintenance_work_mem = '128MB'; SET max_parallel_maintenance_workers = 0";
                sqlx::raw_sql(alone).execute(&mut *conn).await?;
                conn
            }
        };
        // Removed by age, perhaps.
        if !exists(conn, partition).await? {
            return Ok(());
        }
        for ((name, _), statement) in INDEXES.iter().zip(statements(partition)) {
            let index = format!("{partition}_{name}");
            match is_valid(conn, &index).await? {
                Some(true) => continue,
                // Given up in the middle.
                Some(false) => execute(conn, format!("DROP INDEX {index}")).await?,
                None => {}
            }
            // Where entries are added the writer must not wait.
            let statement = match grows {
                true => statement.replacen("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1),
                false => statement,
            };
            execute(conn, statement).await?;
        }
        Ok(())
    }
}

async fn execute(conn: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

async fn exists(conn: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(conn).await
}

/// `None` when there is no such index.
async fn is_valid(conn: &mut PgConnection, index: &str) -> Result<Option<bool>, sqlx::Error> {
    let asked = sqlx::query_scalar("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)");
    asked.bind(index).fetch_optional(conn).await
}
