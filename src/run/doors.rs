//! Where the process may be reached, and how much at once: judged by the settings before anything is opened.
//!
//! Who listens on loopback without `auth.mode` trusts this machine: then only names of this machine are answered, since a
//! page in a browser here can be made to come from anywhere. Who listens beyond says who may ask, if only that everybody
//! may. What a sidecar pushes are events, erasures too: where not everybody may write, it has to say who it is.

use std::net::SocketAddr;

use anyhow::bail;
use query_api::auth::Auth;
use query_api::routes::Hosts;
use query_api::serve::BodyLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::settings::Settings;
use crate::settings::auth::AuthSettings;

/// Descriptors for files, the database, the broker and calls; the others are for connections.
const DESCRIPTORS_KEPT: u64 = 256;
/// As many descriptors are asked for, where so many are allowed.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// What was judged.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Open connections at once.
    pub connections_max: usize,
    hosts: Hosts,
}

impl Doors {
    /// Judges the settings for a listener; `pushed` is whether a sidecar pushes events.
    pub fn judge(listen: SocketAddr, settings: &Settings, pushed: bool) -> anyhow::Result<Doors> {
        let open = settings.auth == AuthSettings::None;
        let beyond = !listen.ip().to_canonical().is_loopback();
        if open && beyond && !settings.auth_named {
            bail!(
                "--listen {listen} is reached from other machines, and nothing says who may ask: set auth.mode to token \
                 or jwt (docs/contract.md has what they need), or to none where everybody may read and change everything"
            );
        }
        if pushed && settings.app_api_token.is_none() && (beyond || !open) {
            let why = if open { "a listener beyond loopback" } else { "an auth.mode" };
            bail!(
                "source.mode=dapr with {why} takes events from anybody as long as app_api_token is not set: set it to \
                 the token that the sidecar sends (APP_API_TOKEN of the sidecar, dapr.io/app-token-secret in a cluster)"
            );
        }
        if open && beyond {
            warn!(%listen, "auth.mode=none on a listener that other machines reach: everybody may read and change everything");
        }
        let hosts = Hosts { names: settings.http.hosts.clone(), only: open && !beyond };
        Ok(Doors { connections_max: settings.http.connections_max.min(connections_possible()), hosts })
    }

    /// The settings of the API behind them.
    pub fn config(&self, auth: Auth, settings: &Settings) -> query_api::Config {
        let http = &settings.http;
        query_api::Config {
            auth,
            zone: settings.pipeline.timezone,
            query_timeout: settings.query_timeout,
            hosts: self.hosts.clone(),
            bodies: BodyLimits {
                bytes_max: http.body_bytes_max,
                timeout: http.body_timeout,
                rate_min: http.body_rate_min,
            },
            ..query_api::Config::default()
        }
    }
}

/// Raises the limit of descriptors to what is allowed; returns how many connections that leaves room for.
fn connections_possible() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX);
    let mut now = limit.current.unwrap_or(u64::MAX);
    if now < allowed {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum }) {
            Ok(()) => now = allowed,
            Err(error) => warn!(%error, limit = now, "the limit of file descriptors cannot be raised"),
        }
    }
    usize::try_from(connections_of(now)).unwrap_or(usize::MAX)
}

/// Connections that so many descriptors leave room for: not all, and at least half of them.
fn connections_of(descriptors: u64) -> u64 {
    descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 2).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// Shows whether only names of this machine are answered, or which settings are named.
    #[track_caller]
    fn check(listen: &str, pushed: bool, given: &[(&str, &str)], expected: Result<bool, &[&str]>) {
        let settings: BTreeMap<String, Value> =
            given.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        let settings = Settings::read(settings).unwrap();
        match (Doors::judge(listen.parse().unwrap(), &settings, pushed), expected) {
            (Ok(doors), Ok(only)) => assert_eq!(doors.hosts.only, only, "{listen} {given:?}"),
            (Err(error), Err(named)) => {
                let error = error.to_string();
                assert!(named.iter().all(|name| error.contains(name)), "{listen} {given:?}: {error}");
            }
            (found, _) => panic!("{listen} {pushed} {given:?}: {found:?}"),
        }
    }

    #[test]
    fn settings_that_leave_a_door_open_stop_the_start() {
        let token = [("auth.mode", "token"), ("auth.token_file", "/tokens")];
        let none = [("auth.mode", "none")];
        let knock = [("app_api_token", "knock")];
        for loopback in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.2:0"] {
            check(loopback, false, &[], Ok(true));
            check(loopback, false, &none, Ok(true));
            check(loopback, false, &token, Ok(false));
            check(loopback, true, &[], Ok(true));
            check(loopback, true, &token, Err(&["source.mode=dapr", "auth.mode", "app_api_token"]));
            check(loopback, true, &[&token[..], &knock[..]].concat(), Ok(false));
        }
        for beyond in ["0.0.0.0:8080", "[::]:8080", "10.0.0.7:80"] {
            check(beyond, false, &[], Err(&["--listen", beyond, "auth.mode"]));
            check(beyond, false, &none, Ok(false));
            check(beyond, false, &token, Ok(false));
            check(beyond, true, &[], Err(&["auth.mode"]));
            check(beyond, true, &knock, Err(&["auth.mode"]));
            check(beyond, true, &none, Err(&["source.mode=dapr", "app_api_token"]));
            check(beyond, true, &token, Err(&["source.mode=dapr", "app_api_token"]));
            check(beyond, true, &[&none[..], &knock[..]].concat(), Ok(false));
            check(beyond, true, &[&token[..], &knock[..]].concat(), Ok(false));
        }
    }

    #[test]
    fn connections_stay_below_the_limit_of_descriptors() {
        for (descriptors, connections) in [(0, 1), (100, 50), (256, 128), (1024, 768), (20_000, 19_744)] {
            assert_eq!(connections_of(descriptors), connections);
        }
    }
}
