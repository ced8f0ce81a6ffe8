//! What only PostgreSQL has: a server that goes away, the lease, and SQL for analysts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use components::{Postgres as Server, PostgresOptions};
use sinks::store::{Database, Lease, Options, Postgres};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use topics::commit::Restored;

use crate::history::NOTES;

/// How long a lease lasts in these tests.
const LASTS: Duration = Duration::from_secs(3);

/// The server that the tests of this binary share; none of them harms it.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(PostgresOptions { fsync: false, ..PostgresOptions::default() }).unwrap())
}

/// A database of its own.
pub fn database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    server().create_database(&format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub async fn lease(url: &str) -> (Database, Lease) {
    let database = Database::at(url, Duration::from_secs(10)).unwrap();
    let lease = database.lease("test", LASTS, |_| {}).await.unwrap();
    (database, lease)
}

pub async fn open(url: &str, options: Options) -> (Arc<Postgres>, Restored) {
    let (database, lease) = lease(url).await;
    Postgres::open(&database, lease, &[NOTES], options).await.unwrap()
}

pub async fn keys(url: &str) -> HashMap<String, Vec<u8>> {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query("SELECT user_id, key FROM user_key WHERE key IS NOT NULL").fetch_all(&mut conn).await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}
