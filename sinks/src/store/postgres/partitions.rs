//! Partitions of the audit: each for a range of entry numbers, made just before the first entry of its range.
//!
//! The newest partition is the only one that grows, so its indexes are small and stay in memory; the older ones are
//! never written again but by an erasure. Which indexes, and since when, is told in [`indexes`].

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::store::postgres::indexes;
use crate::store::postgres::lease::is_held;

/// How long making a partition may wait for a lock before it is tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

/// The partitions there are.
#[derive(Clone, Debug)]
pub(crate) struct Partitions {
    /// Entries of each partition that is made from now on.
    size: u64,
    /// First entry number and the one after the last, of each, in order.
    ranges: Vec<(u64, u64)>,
}

impl Partitions {
    /// Looks them up.
    pub(crate) async fn load(conn: &mut PgConnection, size: u64) -> Result<Partitions, sqlx::Error> {
        // The bounds as PostgreSQL writes them: FOR VALUES FROM ('1') TO ('1048577').
        let ranges: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT bounds[1]::int8, bounds[2]::int8 FROM ( \
               SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''(\\d+)''\\) TO \\(''(\\d+)''\\)') \
               FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = 'audit_entry'::regclass) AS of (bounds) \
             WHERE bounds IS NOT NULL ORDER BY 1",
        )
        .fetch_all(conn)
        .await?;
        let ranges = ranges.into_iter().map(|(first, end)| (first as u64, end as u64)).collect();
        Ok(Partitions { size: size.max(1), ranges })
    }

    /// Looks them up anew, and gives the names of those that are new.
    pub(crate) async fn reload(&mut self, conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
        let known = self.ranges.last().map_or(1, |(_, end)| *end);
        *self = Partitions::load(conn, self.size).await?;
        Ok(self.ranges.iter().filter(|(first, _)| *first >= known).map(|(first, _)| name(*first)).collect())
    }

    /// Their names, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.ranges.iter().map(|(first, _)| name(*first)).collect()
    }

    /// Name of the partition that holds entry `n`, and the number after its last entry.
    pub(crate) fn holding(&self, n: u64) -> Option<(String, u64)> {
        let (first, end) = self.ranges.iter().rev().find(|(first, end)| (*first..*end).contains(&n))?;
        Some((name(*first), *end))
    }

    /// Makes the next partition, with its indexes or without, and gives its name.
    pub(crate) async fn advance(&mut self, conn: &mut PgConnection, indexed: bool) -> Result<String, sqlx::Error> {
        let first = self.ranges.last().map_or(1, |(_, end)| *end);
        let end = first + self.size;
        let name = name(first);
        let mut transaction = conn.begin().await?;
        // Made apart and then attached: readers of the whole table need not be waited for.
        let mut make = vec![
            LOCK_TIMEOUT.to_owned(),
            format!("CREATE TABLE {name} (LIKE audit_entry INCLUDING ALL)"),
            format!("ALTER TABLE audit_entry ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})"),
        ];
        if indexed {
            make.extend(indexes::statements(&name));
        }
        for sql in make {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        self.ranges.push((first, end));
        Ok(name)
    }
}

/// Drops the partitions whose whole range is before entry `n`, but for the last one. A reader that holds one up is not
/// waited for: it is dropped another time.
pub(crate) async fn drop_before(conn: &mut PgConnection, n: u64, epoch: i64) -> Result<(), sqlx::Error> {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    let partitions = Partitions::load(conn, 1).await?;
    let closed = &partitions.ranges[..partitions.ranges.len().saturating_sub(1)];
    for (first, _) in closed.iter().filter(|(_, end)| *end <= n) {
        let mut transaction = conn.begin().await?;
        // Whoever comes after this waits for it: it must not wait long itself.
        sqlx::query("SET LOCAL lock_timeout = '200ms'").execute(&mut *transaction).await?;
        if !is_held(&mut transaction, epoch).await? {
            return Ok(());
        }
        let dropped =
            sqlx::query(AssertSqlSafe(format!("DROP TABLE {}", name(*first)))).execute(&mut *transaction).await;
        match dropped {
            Ok(_) => transaction.commit().await?,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn name(first: u64) -> String {
    format!("audit_entry_{first:012}")
}
