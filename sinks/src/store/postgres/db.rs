//! Connections to the database, what they are for, and saying what went wrong with which.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgConnectOptions, PgConnection, PgHasArrayType, PgPool, PgPoolOptions, PgRow, PgTypeInfo,
    PgValueFormat, PgValueRef,
};
use sqlx::{ConnectOptions, Connection, Decode, Encode, Postgres, Type};
use topics::time::Timestamp;

use crate::store::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection that nothing is asked of may take to show that it works.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// What an operator can do about a database that does not hold what was written to it.
const REMEDY: &str =
    "Restore the database from a backup, or start on an empty one: everything is made again from the source";
/// Oldest version that is worked with.
const VERSION_MIN: i32 = 15;

/// Begins a transaction that sees one moment.
pub(crate) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Writes commits, or tables.
    Write,
    /// Answers a reader, in bounded time.
    Read,
    /// Reads everything.
    Load,
}

/// Which of this program's tables a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// None.
    None,
    /// Those of an older version, or some: a process may be making the others just now.
    Older,
    /// All.
    Whole,
}

/// A database.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    options: PgConnectOptions,
    place: PathBuf,
    /// Longest time for one statement of a reader.
    patience: Duration,
}

impl Db {
    /// Reads an address such as `postgres://user:password@host:5432/database`.
    pub(crate) fn parse(url: &str, patience: Duration) -> Result<Db, StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(|source| StoreError::Database {
            doing: "read its address",
            file: PathBuf::from("PostgreSQL"),
            source,
        })?;
        let database = options.get_database().unwrap_or(options.get_username());
        let place = format!("PostgreSQL database {database} at {}:{}", options.get_host(), options.get_port());
        Ok(Db { options: options.disable_statement_logging(), place: place.into(), patience })
    }

    fn options(&self, role: Role, name: &str) -> PgConnectOptions {
        let millis = |time: Duration| time.as_millis().to_string();
        let statement = match role {
            Role::Read => self.patience,
            Role::Write => Duration::from_secs(120),
            Role::Load => Duration::ZERO,
        };
        let settings = [
            ("statement_timeout", millis(statement)),
            ("idle_in_transaction_session_timeout", "60000".to_owned()),
            // Lists of numbers decide which partitions are looked at: a plan for any list would look at all.
            ("plan_cache_mode", "force_custom_plan".to_owned()),
            ("jit", "off".to_owned()),
            ("timezone", "UTC".to_owned()),
        ];
        self.options.clone().application_name(name).options(settings)
    }

    /// Opens a connection of its own, in bounded time.
    pub(crate) async fn connect(&self, role: Role, name: &str) -> Result<PgConnection, sqlx::Error> {
        answer(CONNECT_WITHIN, self.options(role, name).connect()).await
    }

    /// As [`Db::connect`], in the place of an earlier connection of the same name, which may have been given up. The
    /// server may not know that, and what it still does for that one holds locks that this one needs: it is ended first.
    /// `backend` is who serves the connection.
    pub(crate) async fn connect_anew(
        &self,
        role: Role,
        name: &str,
        backend: &mut Option<i32>,
    ) -> Result<PgConnection, sqlx::Error> {
        let mut conn = self.connect(role, name).await?;
        if let Some(before) = *backend {
            sqlx::query(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE pid = $1 AND application_name = current_setting('application_name')",
            )
            .bind(before)
            .execute(&mut conn)
            .await?;
        }
        *backend = Some(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await?);
        Ok(conn)
    }

    /// Connections for readers. One that does not answer is closed, also where the network tells nothing: waiting for
    /// it would keep its place from the others for as long as the machine tries to reach the server.
    pub(crate) fn pool(&self, readers: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(readers)
            .acquire_timeout(CONNECT_WITHIN)
            .idle_timeout(Duration::from_secs(300))
            .test_before_acquire(false)
            .before_acquire(|conn, _| Box::pin(async { Ok(answers(conn).await) }))
            .after_release(|conn, _| Box::pin(async { Ok(answers(conn).await) }))
            .connect_lazy_with(self.options(Role::Read, "tasktide-reader"))
    }

    /// Which of this program's tables the database has.
    pub(crate) async fn tables(&self, conn: &mut PgConnection) -> Result<Tables, sqlx::Error> {
        let has_tables: bool =
            sqlx::query_scalar("SELECT to_regclass('lease') IS NOT NULL").fetch_one(&mut *conn).await?;
        if !has_tables {
            return Ok(Tables::None);
        }
        let last: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(conn).await?;
        let ours = MIGRATIONS.iter().map(|migration| migration.version).max();
        Ok(if last < ours { Tables::Older } else { Tables::Whole })
    }

    /// Checks that the database is one that can be worked with, and brings its tables up to date.
    pub(crate) async fn prepare(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let failed = self.failed("look at its version");
        let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int4")
            .fetch_one(&mut *conn)
            .await
            .map_err(&failed)?;
        if version / 10_000 < VERSION_MIN {
            let found = version / 10_000;
            return Err(self.unsuitable(format!("its version is {found}, and {VERSION_MIN} or newer is needed")));
        }
        let encoding: String = sqlx::query_scalar("SELECT current_setting('server_encoding')")
            .fetch_one(&mut *conn)
            .await
            .map_err(&failed)?;
        if encoding != "UTF8" {
            return Err(self.unsuitable(format!(
                "its encoding is {encoding}, and UTF8 is needed (CREATE DATABASE … ENCODING UTF8 TEMPLATE template0)"
            )));
        }
        let checksums: String =
            sqlx::query_scalar("SHOW data_checksums").fetch_one(&mut *conn).await.map_err(&failed)?;
        if checksums != "on" {
            let database = self.place.display();
            tracing::warn!(%database, "the server's pages have no checksums: damage to its files may go unnoticed (pg_checksums --enable)");
        }
        MIGRATIONS.run(conn).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(source) => self.failed("make the tables")(source),
            sqlx::migrate::MigrateError::ExecuteMigration(source, _) => self.failed("make the tables")(source),
            // Versions only grow: one that this program has not comes from a later one.
            sqlx::migrate::MigrateError::VersionMissing(_) => StoreError::Newer { file: self.place.clone() },
            other => self.damaged(format!("its tables are not this program's ({other})")),
        })
    }

    /// Turns the database's refusal into an error that names the database.
    pub(crate) fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError + use<> {
        let place = self.place.clone();
        move |source| match &source {
            // Tables of another shape than this program's, or what is no value of their kind.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                let what = topics::chain::chain(&source).to_string();
                StoreError::Damaged { file: place.clone(), what, remedy: REMEDY }
            }
            // Class XX: the server found pages or an index of its own damaged.
            sqlx::Error::Database(database) if database.code().is_some_and(|code| code.starts_with("XX00")) => {
                let what = database.message().to_owned();
                StoreError::Damaged { file: place.clone(), what, remedy: REMEDY }
            }
            _ => StoreError::Database { doing, file: place.clone(), source },
        }
    }

    /// The database does not hold what it should.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { file: self.place.clone(), what: what.into(), remedy: REMEDY }
    }

    /// A pipeline has yet to make the tables.
    pub(crate) fn not_made(&self) -> StoreError {
        StoreError::NotMade { file: self.place.clone() }
    }

    /// The database cannot hold a store, whatever is in it.
    fn unsuitable(&self, what: String) -> StoreError {
        StoreError::Unsuitable { file: self.place.clone(), what }
    }

    /// The database is not for this process.
    pub(crate) fn of_another(&self, source: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
        StoreError::OfAnother { file: self.place.clone(), source }
    }

    /// The database has no table for a view.
    pub(crate) fn new_view(&self, view: &'static str) -> StoreError {
        StoreError::NewView { file: self.place.clone(), view, remedy: REMEDY }
    }
}

/// A value out of a row.
pub(crate) trait Stored {
    /// The value in column `at`; damage where it is of another kind.
    fn at<'r, T>(&'r self, at: usize, db: &Db) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>;

    /// A number that is never negative.
    fn number(&self, at: usize, db: &Db) -> Result<u64, StoreError>;
}

impl Stored for PgRow {
    fn at<'r, T>(&'r self, at: usize, db: &Db) -> Result<T, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        sqlx::Row::try_get(self, at).map_err(db.failed("read a row"))
    }

    fn number(&self, at: usize, db: &Db) -> Result<u64, StoreError> {
        Ok(self.at::<i64>(at, db)? as u64)
    }
}

/// Whether trying again may help: the server is away or busy, not our password wrong.
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        // Class 08 is the connection, 53 a lack of resources, 57 an operator's doing, 40 a conflict, 55 a lock.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| ["08", "53", "57", "40", "55"].iter().any(|class| code.starts_with(class))),
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => false,
        _ => true,
    }
}

/// Whether a connection works.
async fn answers(conn: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(ANSWERS_WITHIN, conn.ping()).await, Ok(Ok(())))
}

/// What a server answers, or that it did not within a time: a connection may be dead without anybody saying so.
pub(crate) async fn answer<T, E: From<sqlx::Error>>(
    within: Duration,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(within, asked).await {
        Ok(answered) => answered,
        Err(_) => {
            let detail = format!("no answer within {within:?}");
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, detail)).into())
        }
    }
}

/// Closes a connection; what it had to say no longer matters to anyone.
pub(crate) async fn close(conn: PgConnection) {
    let closing = tokio::time::timeout(CONNECT_WITHIN, conn.close()).await;
    if let Ok(Err(error)) = closing {
        tracing::debug!(%error, "a database connection was not closed properly");
    }
}

/// Text as PostgreSQL can hold it: it has no NUL. Reversible, and the identity for everything usual.
pub(crate) fn to_sql(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', '\u{2400}']) {
        return text.into();
    }
    text.replace('\u{2400}', "\u{2400}\u{2400}").replace('\0', "\u{2400}0").into()
}

/// Reads what [`to_sql`] made.
pub(crate) fn from_sql(text: &str) -> String {
    let mut read = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{2400}' if chars.next() == Some('0') => read.push('\0'),
            c => read.push(c),
        }
    }
    read
}

/// An instant as `timestamptz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At(pub(crate) Timestamp);

/// Milliseconds from the epoch to 2000-01-01, where PostgreSQL counts from.
const EPOCH_2000: i64 = 946_684_800_000;

impl At {
    /// As PostgreSQL sends it: microseconds since 2000.
    pub(crate) fn micros(self) -> i64 {
        let millis = self.0.clamp(Timestamp::MIN, Timestamp::MAX).millis();
        (millis - EPOCH_2000) * 1000
    }

    fn from_micros(micros: i64) -> At {
        At(Timestamp::from_millis(micros.div_euclid(1000).saturating_add(EPOCH_2000)))
    }
}

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for At {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        buf.extend_from_slice(&self.micros().to_be_bytes());
        Ok(sqlx::encode::IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for At {
    fn decode(value: PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("an instant came as text".into());
        }
        Ok(At::from_micros(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_nul_goes_there_and_back() {
        for (text, stored) in [
            ("plain ü", "plain ü"),
            ("a\0b", "a\u{2400}0b"),
            ("\u{2400}", "\u{2400}\u{2400}"),
            ("\u{2400}0\0", "\u{2400}\u{2400}0\u{2400}0"),
        ] {
            assert_eq!(to_sql(text), stored);
            assert_eq!(from_sql(stored), text);
        }
    }

    #[test]
    fn instants_go_there_and_back() {
        for at in [Timestamp::MIN, Timestamp::MAX, Timestamp::from_millis(0), Timestamp::from_millis(-1)] {
            assert_eq!(At::from_micros(At(at).micros()).0, at);
        }
        assert_eq!(At(Timestamp::from_millis(EPOCH_2000)).micros(), 0);
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        let db = Db::parse("postgres://ann:secret@db.example:5433/tasks", Duration::from_secs(1)).unwrap();
        let shown = db.damaged("x").to_string();
        assert!(shown.contains("database tasks at db.example:5433") && !shown.contains("secret"), "{shown}");
        assert!(Db::parse("tasks", Duration::from_secs(1)).is_err());
    }
}
