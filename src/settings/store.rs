//! Settings of the store: `store.…`.

use std::time::Duration;

use crate::settings::{Given, Secret, SettingError};

/// Where commits are kept.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// `store.url`: a PostgreSQL database; without it the store is embedded, in the data directory.
    pub url: Option<Secret>,
    /// `store.lease`: how long a process that does not answer keeps the right to write.
    pub lease: Duration,
    /// `store.replica_lag_max`: a query process that is further behind than this calls itself not ready.
    pub replica_lag_max: Duration,
}

impl StoreSettings {
    pub(super) fn read(from: &mut Given) -> Result<StoreSettings, SettingError> {
        let bounds = Duration::from_secs(2)..=Duration::from_secs(25);
        let lease = from.text("store.lease", "a duration from 2s to 25s", "10s", |text| {
            crate::settings::duration(text).filter(|lease| bounds.contains(lease))
        })?;
        Ok(StoreSettings {
            url: from.text("store.url", "the address of a PostgreSQL database", EXAMPLE, |text| {
                is_postgres(text).then(|| Secret(text.to_owned()))
            })?,
            lease: lease.unwrap_or(Duration::from_secs(10)),
            replica_lag_max: from.duration("store.replica_lag_max", "30s")?.unwrap_or(Duration::from_secs(30)),
        })
    }
}

const EXAMPLE: &str = "postgres://tasktide:password@db.example:5432/tasktide";

fn is_postgres(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Reads `--store`.
pub fn store_url(text: &str) -> Result<Secret, String> {
    match is_postgres(text) {
        true => Ok(Secret(text.to_owned())),
        false => Err(format!("give the address of a PostgreSQL database, such as {EXAMPLE}")),
    }
}
