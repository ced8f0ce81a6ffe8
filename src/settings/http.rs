//! What HTTP takes in at most, and under which names: `http.…`.

use std::time::Duration;

use super::given::{Given, SettingError};

/// The settings `http.…`.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// `http.hosts`: names that requests may come to, beside those of this machine.
    pub hosts: Vec<String>,
    /// `http.connections_max`: open connections at once.
    pub connections_max: usize,
    /// `http.body_bytes_max`: bytes of all bodies under way.
    pub body_bytes_max: usize,
    /// `http.body_timeout`: how long one body may take.
    pub body_timeout: Duration,
    /// `http.body_rate_min`: bytes a second that a body must bring.
    pub body_rate_min: u64,
}

impl HttpSettings {
    pub(super) fn read(from: &mut Given) -> Result<HttpSettings, SettingError> {
        Ok(HttpSettings {
            hosts: from.list("http.hosts", host)?,
            connections_max: from.number("http.connections_max")? as usize,
            body_bytes_max: from.number("http.body_bytes_max")? as usize,
            body_timeout: from.duration("http.body_timeout")?,
            body_rate_min: from.number("http.body_rate_min")?,
        })
    }
}

/// A name or address, without scheme and port.
fn host(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let plain = !name.is_empty() && !name.contains(['/', '@', ' ', '?', '#', '*']);
    let no_port = name.starts_with('[') == name.ends_with(']') && (name.starts_with('[') || !name.contains(':'));
    (plain && no_port).then_some(name)
}
