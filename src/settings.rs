//! Settings: one struct, read from a file and the environment, checked before anything starts.
//!
//! A setting has a dotted name (`reminders.max_late`). In the environment it is `TASKTIDE_` and the name in upper
//! case with `__` for each dot; in the file given by `--config` (TOML) it is a key of that path. The environment
//! wins over the file. A bad value and an unknown key stop the start, naming the key, the value and an example. Which
//! settings there are says [`list`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use chrono::NaiveTime;
use pipeline::recurrence::Missed;
use query_api::auth::private;
use query_api::stream::StreamConfig;
use serde_json::Value;
use topics::reminder::{Channel, Offset};

pub mod list;
mod given;
pub mod auth;
pub mod http;
mod kafka;
mod retention;
pub mod secrets;
mod store;

pub use given::SettingError;
pub use kafka::Kafka;
pub use retention::Retention;
pub use store::{StoreSettings, store_url};

use crate::cli::SourceMode;
use given::Given;

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
    pub otel_endpoint: Option<Secret>,
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
    /// Whether `auth.mode` is set, if only to `none`.
    pub auth_named: bool,
    /// What HTTP takes in at most.
    pub http: http::HttpSettings,
}

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Settings {
    /// The settings of a command that ends: those that are secrets are waited for no longer than a minute.
    pub async fn load(file: Option<&Path>) -> Result<Settings, SettingError> {
        Unresolved::read(file)?.resolve(Some(secrets::SIDECAR_WITHIN), |_| {}).await
    }

    /// Reads settings from their dotted names.
    pub fn read(given: BTreeMap<String, Value>) -> Result<Settings, SettingError> {
        Settings::of(Given::new(given, BTreeSet::new()))
    }

    fn of(mut from: Given) -> Result<Settings, SettingError> {
        let otel_endpoint = from.optional("otel.endpoint", |t| is_http(t).then(|| Secret(t.to_owned())))?;
        let audit_retention = from.value("audit.retention", |text| match text {
            "unlimited" => Some(None),
            text => Retention::parse(text).map(Some),
        })?;
        let (auth, auth_named) = auth::AuthSettings::read(&mut from)?;
        let settings = Settings {
            pipeline: read_pipeline(&mut from, otel_endpoint.is_some())?,
            source: from.optional_word("source.mode")?.and_then(|mode| mode.parse().ok()),
            kafka: Kafka::read(&mut from)?,
            allow_truncated: from.flag("bootstrap.allow_truncated")?,
            otel_endpoint,
            sidecar: secrets::Sidecar::from_environment(),
            app_api_token: from.optional("app_api_token", some)?.map(Secret),
            state_mirror: from.word("state_mirror")? == "dapr",
            audit_retention,
            publish_updates: from.flag("updates.publish")?,
            store: StoreSettings::read(&mut from)?,
            create_path: from.value("actions.create.path", |t| t.starts_with('/').then(|| t.to_owned()))?,
            create_by_invoke: from.word("actions.create.via")? == "invoke",
            confirm_wait: from.duration("actions.confirm_wait")?,
            max_elapsed: from.duration("actions.max_elapsed")?,
            action_timeout: from.duration("actions.timeout")?,
            webhook_secret: from.optional("webhook.secret", some)?.map(Secret),
            email_from: from.optional("email.from", |t| t.contains('@').then(|| t.to_owned()))?,
            query_timeout: from.duration("query.timeout")?,
            ready_max_lag: from.number("ready.max_lag")?,
            stream: read_stream(&mut from)?,
            auth,
            auth_named,
            http: http::HttpSettings::read(&mut from)?,
        };
        from.finish()?;
        Ok(settings)
    }
}

/// Settings as they are given: some may refer to secrets.
pub struct Unresolved(BTreeMap<String, Value>);

impl Unresolved {
    /// Reads the file, if one is given, and the process's environment.
    pub fn read(file: Option<&Path>) -> Result<Unresolved, SettingError> {
        let mut given = BTreeMap::new();
        if let Some(path) = file {
            let unreadable = |detail: String| SettingError::File { path: path.to_owned(), detail };
            let text = String::from_utf8(private::read_trusted(path).map_err(unreadable)?);
            let text = text.map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
            let table: Value = toml::from_str(&text).map_err(|error| unreadable(place_of(&error, &text)))?;
            flatten(String::new(), table, &mut given);
            if given.iter().any(|(key, value)| secrets::is_one(key, value)) {
                secrets::only_ours("the settings file, which holds secrets,", path)?;
            }
        }
        for (variable, value) in std::env::vars_os() {
            let Some(key) = variable.to_str().and_then(list::key_of) else { continue };
            let value = value.into_string().map_err(|_| SettingError::Variable { variable: list::variable(&key) })?;
            given.insert(key, Value::String(value));
        }
        if let Some(key) = given.keys().find(|key| list::find(key).is_none()) {
            return Err(SettingError::Unknown { key: key.clone() });
        }
        Ok(Unresolved(given))
    }

    /// Asks the sidecar for what is a secret. One that does not answer is waited for, for ever or no longer than `within`;
    /// `waits` hears why, again and again.
    pub async fn resolve(
        mut self,
        within: Option<Duration>,
        waits: impl FnMut(&str),
    ) -> Result<Settings, SettingError> {
        let sidecar = secrets::Sidecar::from_environment();
        let secret = secrets::resolve(&mut self.0, &sidecar, within, waits).await?;
        let settings = Settings::of(Given::new(self.0, secret))?;
        settings.kafka.are_files_ours()?;
        Ok(settings)
    }
}

fn read_pipeline(from: &mut Given, traces: bool) -> Result<pipeline::Config, SettingError> {
    let mut config = pipeline::Config {
        timezone: from.value("timezone", topics::time::parse_zone)?,
        default_offsets: from.list("reminders.default_offsets", Offset::parse)?,
        default_channels: from.list("reminders.channels", Channel::parse)?,
        all_day_hour: from.value("reminders.all_day_hour", |t| NaiveTime::parse_from_str(t, "%H:%M").ok())?,
        max_late: from.duration("reminders.max_late")?,
        missed: match from.word("recurrence.missed")? {
            "keep" => Missed::Keep,
            _ => Missed::Skip,
        },
        create_horizon: from.duration("bootstrap.create_horizon")?,
        hold_max: from.duration("actions.hold_max")?,
        traces,
        ..pipeline::Config::default()
    };
    config.limits.max_event_bytes = from.number("max_event_bytes")? as usize;
    Ok(config)
}

fn read_stream(from: &mut Given) -> Result<StreamConfig, SettingError> {
    Ok(StreamConfig {
        replay: from.number("stream.replay")? as usize,
        replay_bytes: from.number("stream.replay_bytes")? as usize,
        buffer: from.number("stream.buffer")? as usize,
        buffer_bytes: from.number("stream.buffer_bytes")? as usize,
        clients_max: from.number("stream.clients_max")? as usize,
        clients_share: from.number("stream.clients_share")? as usize,
        ..StreamConfig::default()
    })
}

/// A text that is one.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What is wrong with a settings file, and where; its text is not shown, which may hold a secret.
fn place_of(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line} is not TOML")
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
                "setting \"auth.jwt.algorithm\" is not set, but auth.mode=jwt needs it; for example auth.jwt.algorithm=RS256",
            ),
        );
    }

    #[test]
    fn every_setting_of_the_list_is_read_and_its_defaults_are_those_of_the_parts() {
        let unset = Settings::read(BTreeMap::new()).unwrap();
        assert_eq!(format!("{:?}", unset.pipeline), format!("{:?}", pipeline::Config::default()));
        for setting in list::SETTINGS {
            let given = BTreeMap::from([(setting.name.to_owned(), Value::from("\u{1}"))]);
            // A text that any name could be is read; nothing else is unknown.
            if let Err(error) = Settings::read(given) {
                assert!(!matches!(error, SettingError::Unknown { .. }), "{error}");
                assert!(error.to_string().contains(setting.name), "{error}");
            }
        }
    }

    #[test]
    fn no_secret_is_shown_for_debugging() {
        let secret = "canary7c3f".repeat(4);
        let address = format!("https://ann:{secret}@example.org/{secret}?key={secret}");
        let access = [("kafka.brokers", "a:9092"), ("kafka.sasl_username", "ann"), ("kafka.sasl_mechanism", "SHA-512")];
        let jwt = [("auth.mode", "jwt"), ("auth.jwt.issuer", "i"), ("auth.jwt.audience", "a")];
        for more in [
            [("auth.jwt.algorithm", "HS256"), ("kafka.auth_type", "password")],
            [("auth.jwt.algorithm", "RS256"), ("kafka.auth_type", "password")],
        ] {
            let plain = [&access[..], &jwt, &more].concat();
            let mut given: BTreeMap<String, Value> =
                plain.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
            for setting in list::SETTINGS.iter().filter(|setting| setting.secret) {
                let value = match setting.name {
                    "store.url" => format!("postgres://ann:{secret}@db/tasks"),
                    "auth.jwt.jwks" | "otel.endpoint" => address.clone(),
                    "kafka.client_cert" | "kafka.client_key" => format!("-----BEGIN {secret}"),
                    _ => secret.clone(),
                };
                given.insert(setting.name.to_owned(), Value::String(value));
            }
            let shown = format!("{:?}", Settings::read(given).unwrap());
            assert!(!shown.contains("canary7c3f"), "{shown}");
        }
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
