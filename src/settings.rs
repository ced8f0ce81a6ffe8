//! Settings: one struct, read from a file and the environment, checked before anything starts.
//!
//! A setting has a dotted name (`reminders.max_late`). In the environment it is `TASKTIDE_` and the name in upper
//! case with `__` for each dot; in the file given by `--config` (TOML) it is a key of that path. The environment
//! wins over the file. A bad value and an unknown key stop the start, naming the key, the value and an example.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::NaiveTime;
use query_api::stream::StreamConfig;
use serde_json::Value;
use topics::reminder::{Channel, Offset};

pub mod auth;
mod kafka;
mod retention;
pub mod secrets;
mod store;

pub use kafka::Kafka;
pub use retention::Retention;
pub use store::{StoreSettings, store_url};

use crate::cli::SourceMode;

/// Prefix of settings in the environment.
const PREFIX: &str = "TASKTIDE_";

/// Names of that prefix that are read elsewhere: options of the command line, the log filter, tools of the tests.
const ELSEWHERE: [&str; 9] =
    ["DATA_DIR", "LISTEN", "ACTIONS", "CLOCK", "CONFIG", "LOG", "CHROMIUM", "SOURCE", "COMPONENTS_DIR"];

/// Everything that can be set beside the command line.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the pipeline is told.
    pub pipeline: pipeline::Config,
    /// Path of the create call at the Chat API: `actions.create.path`.
    pub create_path: String,
    /// `actions.create.via`: whether creates go by service invocation instead of the binding.
    pub create_by_invoke: bool,
    /// `actions.confirm_wait`: how long a create whose answer was lost waits for its event before the next try.
    pub confirm_wait: Duration,
    /// `actions.max_elapsed`: after this long an action is given up.
    pub max_elapsed: Duration,
    /// `actions.timeout`: without an answer within it a call counts as unanswered.
    pub action_timeout: Duration,
    /// `webhook.secret`: signs webhook deliveries; without it there is no signature header.
    pub webhook_secret: Option<Secret>,
    /// `email.from`.
    pub email_from: Option<String>,
    /// `source.mode`: where events come from; what the command line says wins.
    pub source: Option<SourceMode>,
    /// How a broker is reached.
    pub kafka: Kafka,
    /// `bootstrap.allow_truncated`: whether to go on where records are gone.
    pub allow_truncated: bool,
    /// The Dapr sidecar, as the environment says.
    pub sidecar: secrets::Sidecar,
    /// `app_api_token`: what the sidecar names itself by when it calls.
    pub app_api_token: Option<Secret>,
    /// `state_mirror`: whether reminders and occurrences are written to the sidecar's state store.
    pub state_mirror: bool,
    /// `query.timeout`.
    pub query_timeout: Duration,
    /// `otel.endpoint`: base address of an OTLP collector that traces are sent to by HTTP; none without it.
    pub otel_endpoint: Option<String>,
    /// `ready.max_lag`, in records.
    pub ready_max_lag: u64,
    /// `stream.…`
    pub stream: StreamConfig,
    /// `audit.retention`: how long audit entries are kept; for ever without it.
    pub audit_retention: Option<Retention>,
    /// `updates.publish`: whether changed rows are told on `task-updates`.
    pub publish_updates: bool,
    /// Where commits are kept.
    pub store: StoreSettings,
    /// Who may ask.
    pub auth: auth::AuthSettings,
}

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Why the settings do not hold.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// No setting has this name.
    #[error("there is no setting \"{key}\"{}", hint.as_ref().map(|h| format!("; did you mean \"{h}\"?")).unwrap_or_default())]
    Unknown {
        /// As given.
        key: String,
        /// The nearest name.
        hint: Option<String>,
    },
    /// The value cannot be read.
    #[error("setting \"{key}\" is {value}, which is not {expected}; for example {key}={example}")]
    Invalid {
        /// Name.
        key: &'static str,
        /// As given.
        value: String,
        /// What is asked for.
        expected: &'static str,
        /// A value that works.
        example: &'static str,
    },
    /// A reference to a secret leads nowhere.
    #[error("setting \"{key}\" refers to secret:{reference}: {detail}")]
    Secret {
        /// Name.
        key: String,
        /// As given, without its scheme.
        reference: String,
        /// Why.
        detail: String,
    },
    /// The file cannot be read.
    #[error("could not read the settings file {path}: {detail}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

impl Settings {
    /// Reads the file, if one is given, and the process's environment; asks the sidecar for secrets.
    pub async fn load(file: Option<&Path>) -> Result<Settings, SettingError> {
        let mut given = BTreeMap::new();
        if let Some(path) = file {
            let unreadable = |detail: String| SettingError::File { path: path.to_owned(), detail };
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
            let table: Value = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
            flatten(String::new(), table, &mut given);
        }
        for (name, value) in std::env::vars() {
            if let Some(key) = name.strip_prefix(PREFIX).filter(|key| !ELSEWHERE.contains(key)) {
                given.insert(key.to_ascii_lowercase().replace("__", "."), Value::String(value));
            }
        }
        let secret = secrets::resolve(&mut given, &secrets::Sidecar::from_environment()).await?;
        Settings::read(given).map_err(|error| secrets::hidden(error, &secret))
    }

    /// Reads settings from their dotted names.
    pub fn read(given: BTreeMap<String, Value>) -> Result<Settings, SettingError> {
        let mut from = Given { given, known: Vec::new() };
        let mut config = pipeline::Config::default();
        if let Some(zone) = from.text("timezone", "an IANA zone name", "Europe/Berlin", topics::time::parse_zone)? {
            config.timezone = zone;
        }
        if let Some(offsets) =
            from.list("reminders.default_offsets", "a list of durations", r#"["PT1H"]"#, Offset::parse)?
        {
            config.default_offsets = offsets;
        }
        if let Some(list) =
            from.list("reminders.channels", "a list of in-app, webhook, email", r#"["in-app"]"#, Channel::parse)?
        {
            config.default_channels = list;
        }
        if let Some(hour) = from
            .text("reminders.all_day_hour", "a time of day", "09:00", |t| NaiveTime::parse_from_str(t, "%H:%M").ok())?
        {
            config.all_day_hour = hour;
        }
        if let Some(late) = from.duration("reminders.max_late", "P7D")? {
            config.max_late = late;
        }
        if let Some(missed) = from.text("recurrence.missed", "skip or keep", "skip", |t| match t {
            "skip" => Some(pipeline::recurrence::Missed::Skip),
            "keep" => Some(pipeline::recurrence::Missed::Keep),
            _ => None,
        })? {
            config.missed = missed;
        }
        if let Some(horizon) = from.duration("bootstrap.create_horizon", "1h")? {
            config.create_horizon = horizon;
        }
        if let Some(hold) = from.duration("actions.hold_max", "5m")? {
            config.hold_max = hold;
        }
        if let Some(bytes) = from.number("max_event_bytes", 1, 64 << 20, "1048576")? {
            config.limits.max_event_bytes = bytes as usize;
        }
        let via = from.text("actions.create.via", "binding or invoke", "binding", |t| match t {
            "binding" => Some(false),
            "invoke" => Some(true),
            _ => None,
        })?;
        let path = from.text("actions.create.path", "a path that starts with /", "/api/tasks", |t| {
            t.starts_with('/').then(|| t.to_owned())
        })?;
        let publish_updates = from.text("updates.publish", "true or false", "true", |t| t.parse::<bool>().ok())?;
        let audit_retention =
            from.text("audit.retention", "an ISO 8601 duration or unlimited", "P1Y", |text| match text {
                "unlimited" => Some(None),
                text => Retention::parse(text).map(Some),
            })?;
        let otel_endpoint =
            from.text("otel.endpoint", "the address of an OTLP collector by HTTP", "http://127.0.0.1:4318", |t| {
                (t.starts_with("http://") || t.starts_with("https://")).then(|| t.to_owned())
            })?;
        config.traces = otel_endpoint.is_some();
        let source = from.text("source.mode", "log, kafka or dapr", "kafka", |t| t.parse().ok())?;
        let allow_truncated =
            from.text("bootstrap.allow_truncated", "true or false", "false", |t| t.parse::<bool>().ok())?;
        let settings = Settings {
            source,
            kafka: Kafka::read(&mut from)?,
            allow_truncated: allow_truncated.unwrap_or(false),
            otel_endpoint,
            sidecar: secrets::Sidecar::from_environment(),
            app_api_token: from.text("app_api_token", "a text", "secret:kubernetes/app-token/token", |t| {
                (!t.is_empty()).then(|| Secret(t.to_owned()))
            })?,
            state_mirror: from
                .text("state_mirror", "off or dapr", "off", |t| match t {
                    "off" => Some(false),
                    "dapr" => Some(true),
                    _ => None,
                })?
                .unwrap_or(false),
            audit_retention: audit_retention.flatten(),
            publish_updates: publish_updates.unwrap_or(false),
            store: StoreSettings::read(&mut from)?,
            create_path: path.unwrap_or_else(|| "/api/tasks".to_owned()),
            create_by_invoke: via.unwrap_or(false),
            confirm_wait: from.duration("actions.confirm_wait", "5s")?.unwrap_or(Duration::from_secs(5)),
            max_elapsed: from.duration("actions.max_elapsed", "24h")?.unwrap_or(Duration::from_secs(86_400)),
            action_timeout: from.duration("actions.timeout", "10s")?.unwrap_or(Duration::from_secs(10)),
            webhook_secret: from.text("webhook.secret", "a text", "whsec_…", |t| Some(Secret(t.to_owned())))?,
            email_from: from
                .text("email.from", "a mail address", "tasks@example.org", |t| t.contains('@').then(|| t.to_owned()))?,
            query_timeout: from.duration("query.timeout", "5s")?.unwrap_or(Duration::from_secs(5)),
            ready_max_lag: from.number("ready.max_lag", 0, u64::MAX, "10000")?.unwrap_or(10_000),
            stream: stream(&mut from)?,
            auth: auth::AuthSettings::read(&mut from)?,
            pipeline: config,
        };
        from.finish()?;
        Ok(settings)
    }
}

/// Bounds of the streams.
fn stream(from: &mut Given) -> Result<StreamConfig, SettingError> {
    let mut stream = StreamConfig::default();
    let mut set = |place: &mut usize, key, min, max, example| {
        from.number(key, min, max, example).map(|given| given.into_iter().for_each(|given| *place = given as usize))
    };
    set(&mut stream.replay, "stream.replay", 0, 10_000_000, "10000")?;
    set(&mut stream.replay_bytes, "stream.replay_bytes", 1 << 20, 1 << 40, "67108864")?;
    set(&mut stream.buffer, "stream.buffer", 1, 1_000_000, "1024")?;
    set(&mut stream.buffer_bytes, "stream.buffer_bytes", 1 << 16, 1 << 40, "16777216")?;
    set(&mut stream.clients_max, "stream.clients_max", 1, 1_000_000, "5000")?;
    set(&mut stream.clients_share, "stream.clients_share", 1, 1_000_000, "1000")?;
    Ok(stream)
}

fn flatten(path: String, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(path, value, into);
            }
        }
        value => {
            into.insert(path, value);
        }
    }
}

/// What was given, and which names were asked for.
struct Given {
    given: BTreeMap<String, Value>,
    known: Vec<&'static str>,
}

impl Given {
    fn text<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        example: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        self.known.push(key);
        let Some(value) = self.given.remove(key) else { return Ok(None) };
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(SettingError::Invalid { key, value: format!("\"{text}\""), expected, example }),
        }
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        example: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, SettingError> {
        self.text(key, expected, example, |text| {
            let texts: Vec<String> = serde_json::from_str(text).ok()?;
            texts.iter().map(|text| read(text)).collect()
        })
    }

    fn duration(&mut self, key: &'static str, example: &'static str) -> Result<Option<Duration>, SettingError> {
        self.text(key, "a duration", example, duration)
    }

    fn number(
        &mut self,
        key: &'static str,
        min: u64,
        max: u64,
        example: &'static str,
    ) -> Result<Option<u64>, SettingError> {
        self.text(key, "a whole number in range", example, |text| {
            text.parse().ok().filter(|number| (min..=max).contains(number))
        })
    }

    fn finish(self) -> Result<(), SettingError> {
        let Some(key) = self.given.into_keys().next() else { return Ok(()) };
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let hint = self.known.iter().find(|known| last(known) == last(&key) || known.starts_with(key.as_str()));
        Err(SettingError::Unknown { hint: hint.map(|h| (*h).to_owned()), key })
    }
}

/// Reads `500ms`, `5s`, `10m`, `24h`, `7d`, or an ISO 8601 duration of weeks, days and time (`PT10S`, `P7D`).
pub fn duration(text: &str) -> Option<Duration> {
    if text.starts_with('P') {
        let offset = Offset::parse(text)?;
        return Some(Duration::from_secs(u64::from(offset.days) * 86_400 + offset.seconds));
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, value: &str, error: Option<&str>) {
        let given = BTreeMap::from([(key.to_owned(), Value::String(value.to_owned()))]);
        assert_eq!(Settings::read(given).err().map(|e| e.to_string()).as_deref(), error);
    }

    #[test]
    fn values_are_checked_and_named() {
        check("timezone", "Europe/Berlin", None);
        check(
            "timezone",
            "Berlin",
            Some(
                "setting \"timezone\" is \"Berlin\", which is not an IANA zone name; for example timezone=Europe/Berlin",
            ),
        );
        check("reminders.default_offsets", r#"["PT1H","-P1D"]"#, None);
        check(
            "reminders.default_offsets",
            "PT1H",
            Some(
                "setting \"reminders.default_offsets\" is \"PT1H\", which is not a list of durations; for example reminders.default_offsets=[\"PT1H\"]",
            ),
        );
        check("max_late", "P7D", Some("there is no setting \"max_late\"; did you mean \"reminders.max_late\"?"));
        check("colour", "red", Some("there is no setting \"colour\""));
        check("audit.retention", "unlimited", None);
        check("audit.retention", "P1Y6M", None);
        check(
            "audit.retention",
            "a year",
            Some(
                "setting \"audit.retention\" is \"a year\", which is not an ISO 8601 duration or unlimited; for example audit.retention=P1Y",
            ),
        );
        check(
            "auth.mode",
            "jwt",
            Some(
                "setting \"auth.jwt.algorithm\" is not set, which is not named, as auth.mode=jwt needs; for example auth.jwt.algorithm=RS256",
            ),
        );
    }

    #[test]
    fn durations() {
        for (text, millis) in
            [("5s", 5000), ("PT10S", 10_000), ("P7D", 604_800_000), ("250ms", 250), ("24h", 86_400_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "5 s", "PT", "-5s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
