//! Settings of the store: `store.…`.

use std::time::Duration;

use super::Secret;
use super::given::{Given, SettingError};

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
        Ok(StoreSettings {
            url: from.optional("store.url", |text| is_postgres(text).then(|| Secret(text.to_owned())))?,
            lease: from.value("store.lease", |text| super::duration(text).filter(|lease| bounds.contains(lease)))?,
            replica_lag_max: from.duration("store.replica_lag_max")?,
        })
    }
}

/// Whether a text is the address of a PostgreSQL database.
pub fn is_postgres(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Reads `--store`. It takes any text: clap would show one that it refuses, with the password in it. What is no address
/// is refused where it is opened.
pub fn store_url(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret(text.to_owned()))
}
