//! Where a store under test keeps its data: a directory, or a database of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sinks::store::{DataDir, Options, Replica, Sqlite, SqliteReplica, Store};
use sqlx::{ConnectOptions, Row};
use topics::commit::Restored;

use crate::history::NOTES;

/// A place for one store.
pub enum Place {
    Sqlite(tempfile::TempDir),
    /// A directory of another process.
    Directory(std::path::PathBuf),
    #[cfg(feature = "real-parts")]
    Postgres(String),
}

/// An open store with what keeps it open.
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub restored: Restored,
    _dir: Option<DataDir>,
}

/// The tests named, on every engine.
macro_rules! on_every_engine {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&$crate::place::Place::sqlite()).await;
            })*
        }
        #[cfg(feature = "real-parts")]
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&$crate::place::Place::postgres()).await;
            })*
        }
    };
}

impl Place {
    pub fn sqlite() -> Place {
        Place::Sqlite(tempfile::tempdir().unwrap())
    }

    #[cfg(feature = "real-parts")]
    pub fn postgres() -> Place {
        Place::Postgres(crate::postgres::database())
    }

    /// The place that [`Place::name`] names, in another process.
    pub fn at(name: &str) -> Place {
        #[cfg(feature = "real-parts")]
        if name.starts_with("postgres:") {
            return Place::Postgres(name.to_owned());
        }
        Place::Directory(name.into())
    }

    pub fn name(&self) -> String {
        match self {
            Place::Sqlite(dir) => dir.path().to_str().unwrap().to_owned(),
            Place::Directory(dir) => dir.to_str().unwrap().to_owned(),
            #[cfg(feature = "real-parts")]
            Place::Postgres(url) => url.clone(),
        }
    }

    /// The process that had it open was killed: what it held is free again.
    pub async fn release(&self) {
        #[cfg(feature = "real-parts")]
        if let Place::Postgres(url) = self {
            crate::postgres::expire_lease(url).await;
        }
    }

    pub async fn open(&self, options: Options) -> Opened {
        match self {
            Place::Sqlite(_) | Place::Directory(_) => {
                let data = DataDir::lock(Path::new(&self.name())).unwrap();
                let (store, restored) = Sqlite::open(&data, &[NOTES], options).await.unwrap();
                Opened { store, restored, _dir: Some(data) }
            }
            #[cfg(feature = "real-parts")]
            Place::Postgres(url) => {
                let (store, restored) = crate::postgres::open(url, options).await;
                Opened { store, restored, _dir: None }
            }
        }
    }

    /// A replica of the store that is open here.
    pub async fn replica(&self) -> (Arc<dyn Replica>, Restored) {
        match self {
            Place::Sqlite(_) | Place::Directory(_) => {
                let (replica, restored) = SqliteReplica::open(Path::new(&self.name()), &[NOTES], |_| {}).await.unwrap();
                (replica, restored)
            }
            #[cfg(feature = "real-parts")]
            Place::Postgres(url) => {
                let database = sinks::store::Database::at(url, std::time::Duration::from_secs(10)).unwrap();
                let (replica, restored) =
                    sinks::store::PostgresReplica::open(&database, &[NOTES], |_| {}).await.unwrap();
                (replica, restored)
            }
        }
    }

    /// The users' keys.
    pub async fn keys(&self) -> HashMap<String, Vec<u8>> {
        match self {
            Place::Sqlite(_) | Place::Directory(_) => keys(Path::new(&self.name())).await,
            #[cfg(feature = "real-parts")]
            Place::Postgres(url) => crate::postgres::keys(url).await,
        }
    }
}

/// The users' keys as the journal has them.
pub async fn keys(dir: &Path) -> HashMap<String, Vec<u8>> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("journal.db")).read_only(true);
    let mut conn = options.connect().await.unwrap();
    let rows =
        sqlx::query("SELECT user_id, key FROM user_key WHERE key IS NOT NULL").fetch_all(&mut conn).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
