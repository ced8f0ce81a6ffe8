//! Every setting, once: name, what its value is, default, example, a sentence, whether it can hold a secret.
//!
//! What reads settings asks here by name, so the default that holds is the one that is told. Errors («is not a duration;
//! for example …»), names in the environment, `tasktide settings` and the table of docs/contract.md follow from it. A
//! setting is added by a line here and the line that reads it; `UPDATE_EXPECT=1 cargo test -p tasktide --lib settings`
//! writes the page's table anew.

use std::fmt;

use serde::{Serialize, Serializer};

/// Prefix of settings in the environment.
pub const PREFIX: &str = "TASKTIDE_";

/// A setting.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Setting {
    /// Its name, with dots.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds when it is not set.
    pub default: Fallback,
    /// A value that can be used.
    pub example: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Whether its value may hold a secret: it is then in no message, log or table.
    pub secret: bool,
}

/// What the value of a setting is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of these words.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// Such as `500ms`, `5s`, `PT10S`.
    Duration,
    /// A whole number, at least and at most.
    Number(u64, u64),
    /// A text that is this.
    Text(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Words([words @ .., last]) => write!(f, "{} or {last}", words.join(", ")),
            Kind::Words([]) => f.write_str("nothing"),
            Kind::Flag => f.write_str("true or false"),
            Kind::Duration => f.write_str("a duration"),
            Kind::Number(least, u64::MAX) => write!(f, "a whole number from {least}"),
            Kind::Number(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Text(what) => f.write_str(what),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What holds when a setting is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// This value.
    Value(&'static str),
    /// No value; the words say what that means.
    Unset(&'static str),
}

use Fallback::{Unset, Value};
use Kind::{Duration, Flag, Number, Text, Words};

impl Setting {
    /// Its name in the environment.
    pub fn variable(&self) -> String {
        variable(self.name)
    }

    const fn secret(self) -> Setting {
        Setting { secret: true, ..self }
    }
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: Fallback,
    example: &'static str,
    about: &'static str,
) -> Setting {
    Setting { name, kind, default, example, about, secret: false }
}

const PATH: Kind = Text("a path");
const NAME: Kind = Text("a name");
const PEM: Kind = Text("a PEM text, or the path of one");
const NOTHING: Fallback = Unset("");

/// The list, in the order of the page.
pub const SETTINGS: &[Setting] = &[
    setting("auth.mode", Words(&["none", "token", "jwt"]), Unset("`none`"), "token", "who may ask: `none` (everybody), `token` (a file), `jwt`. Listening beyond loopback needs it, if only as an explicit `none`"),
    setting("auth.token_file", PATH, NOTHING, "/etc/tasktide/tokens", "with `token`: a line each: token, user or `-`, scopes. Read again when it changes. Others must not be able to read it"),
    setting("auth.jwt.algorithm", Words(&["RS256", "ES256", "EdDSA", "HS256"]), NOTHING, "RS256", "with `jwt`; what a token says of itself is not asked"),
    setting("auth.jwt.jwks", Text("a path, or an http or https address"), NOTHING, "https://login.example.org/keys.json", "path or address of the keys (RFC 7517); read again when a token names an unknown one, at most once a minute").secret(),
    setting("auth.jwt.secret", Text("a text of 32 bytes at least"), NOTHING, "(openssl rand -base64 48)", "with `HS256`").secret(),
    setting("auth.jwt.issuer", NAME, NOTHING, "https://login.example.org", "must be the token's `iss`; `exp`, `nbf` and `iat` hold with 60 s leeway. `sub` is the user, `scope` or `scp` the scopes"),
    setting("auth.jwt.audience", NAME, NOTHING, "tasktide", "must be in the token's `aud`"),
    setting("http.hosts", Text("a list of host names"), Value("[]"), r#"["tasks.example.org"]"#, "with no auth and a listener on loopback: names that requests may come to beside localhost, 127.0.0.1 and [::1]. In every case: further own names in `Origin`"),
    setting("http.connections_max", Number(32, 1000000), Value("20000"), "1000", "open connections; the limit of file descriptors may bound them lower"),
    setting("http.body_bytes_max", Number(1048576, 1099511627776), Value("268435456"), "67108864", "bytes of all request bodies under way at once; beyond it 503"),
    setting("http.body_timeout", Duration, Value("2m"), "30s", "how long one request body may take; then 408"),
    setting("http.body_rate_min", Number(1, 1000000000), Value("4096"), "1024", "bytes a second that a request body must bring, over 10 s; else 408"),
    setting("source.mode", Words(&["log", "kafka", "dapr"]), Unset("`log` (`pipeline`: `kafka`)"), "kafka", "where events come from; `--source` wins"),
    setting("source.partitions", Text("a range of partitions"), Unset("all"), "0-5", "which partitions of `task-events` a Kafka source reads; the topic then has the 12 of section 2. `user-events` is read whole. A store goes on with its own partitions only: another range, or none, stops the start or is `partitions_changed` in `/readyz`"),
    setting("group_id", Text("the name of a consumer group"), Value("task-pipeline"), "task-pipeline", "group under which positions are shown to lag tools"),
    setting("max_event_bytes", Number(1, 67108864), Value("1048576"), "1048576", "a larger event is a dead letter"),
    setting("kafka.brokers", Text("host:port, more of them separated by commas"), NOTHING, "kafka:9092", "addresses of the broker"),
    setting("kafka.auth_type", Words(&["none", "password", "mtls", "oidc"]), Value("none"), "password", "the words of the Dapr component"),
    setting("kafka.sasl_username", Text("a user's name"), NOTHING, "tasktide", "with `password`"),
    setting("kafka.sasl_password", Text("a password"), NOTHING, "secret:kubernetes/kafka/password", "with `password`").secret(),
    setting("kafka.sasl_mechanism", Words(&["PLAINTEXT", "SHA-256", "SHA-512"]), NOTHING, "SHA-512", "with `password`"),
    setting("kafka.ca_cert", PEM, NOTHING, "/etc/kafka/ca.crt", "who the broker must be signed by"),
    setting("kafka.client_cert", PEM, NOTHING, "/etc/kafka/user.crt", "our certificate, with `mtls`").secret(),
    setting("kafka.client_key", PEM, NOTHING, "/etc/kafka/user.key", "its key").secret(),
    setting("kafka.token_file", PATH, NOTHING, "/var/run/secrets/kafka/token", "with `oidc`: a file with the token, read again before it expires"),
    setting("kafka.disable_tls", Flag, Unset("`false`; with `none` and no `kafka.ca_cert` `true`"), "true", "whether the broker is reached in the clear"),
    setting("bootstrap.allow_truncated", Flag, Value("false"), "true", "go on where records are gone"),
    setting("bootstrap.create_horizon", Duration, Value("1h"), "1h", "on a rebuild, creates of older completions are listed as failed"),
    setting("timezone", Text("an IANA zone name"), Value("UTC"), "Europe/Berlin", "zone of tasks whose user has none"),
    setting("reminders.default_offsets", Text("a list of durations"), Value(r#"["PT1H"]"#), r#"["PT1H","P1D"]"#, "reminders of tasks that name none, of users who have none (section 4)"),
    setting("reminders.channels", Text("a list of in-app, webhook, email"), Value(r#"["in-app"]"#), r#"["in-app","email"]"#, "channels of those"),
    setting("reminders.all_day_hour", Text("a time of day"), Value("09:00"), "08:30", "hour at which all-day dues are anchored"),
    setting("reminders.max_late", Duration, Value("P7D"), "P1D", "older reminders expire instead of being sent"),
    setting("recurrence.missed", Words(&["skip", "keep"]), Value("skip"), "keep", "whether occurrences that were missed are skipped (section 5)"),
    setting("actions.create.via", Words(&["binding", "invoke"]), Value("binding"), "invoke", "whether creates go by the sidecar's binding or by invocation"),
    setting("actions.create.path", Text("a path that starts with /"), Value("/api/tasks"), "/api/tasks", "path of the create call at the Chat API"),
    setting("actions.timeout", Duration, Value("10s"), "10s", "without an answer within it a call counts as unanswered"),
    setting("actions.confirm_wait", Duration, Value("5s"), "5s", "how long a create whose answer was lost waits for its event before the next try"),
    setting("actions.max_elapsed", Duration, Value("24h"), "24h", "after this long an action is given up"),
    setting("actions.hold_max", Duration, Value("5m"), "5m", "the longest that actions are held after a start"),
    setting("webhook.secret", Text("a text"), NOTHING, "secret:kubernetes/webhook/secret", "signs webhook deliveries (Standard Webhooks); without it there is no signature").secret(),
    setting("email.from", Text("a mail address"), NOTHING, "tasks@example.org", "sender of mail"),
    setting("app_api_token", Text("a text"), NOTHING, "secret:kubernetes/app-token/token", "what the sidecar must send as `dapr-api-token`; else 401. Needed where `source.mode=dapr` takes pushes with an `auth.mode`, or beyond loopback").secret(),
    setting("state_mirror", Words(&["off", "dapr"]), Value("off"), "dapr", "`dapr`: reminders and occurrences in `statestore`, keys `reminder:{id}` (30 days after they are done) and `occurrence:{taskId}`; never read"),
    setting("updates.publish", Flag, Value("false"), "true", "whether changed rows are told on `task-updates` (section 2)"),
    setting("audit.retention", Text("an ISO 8601 duration or unlimited"), Value("unlimited"), "P1Y", "how long audit entries are kept (`P1Y`, `P90D`; months and years by the calendar, in UTC)"),
    setting("store.url", Text("the address of a PostgreSQL database"), Unset("embedded"), "postgres://tasktide:password@db.example:5432/tasktide", "PostgreSQL database for the commits; `--store` wins").secret(),
    setting("store.lease", Text("a duration from 2s to 25s"), Value("10s"), "10s", "how long a pipeline that does not answer keeps the right to write; then a standby takes over"),
    setting("store.replica_lag_max", Duration, Value("30s"), "30s", "a `query-api` further behind than this is not ready"),
    setting("query.timeout", Duration, Value("5s"), "5s", "longest time for one query; then 504"),
    setting("ready.max_lag", Number(0, u64::MAX), Value("10000"), "10000", "records that may be behind when a pipeline first calls itself ready"),
    setting("stream.replay", Number(0, 10000000), Value("10000"), "10000", "events that a stream can be resumed over"),
    setting("stream.buffer", Number(1, 1000000), Value("1024"), "1024", "events after which a slow reader of a stream is closed"),
    setting("otel.endpoint", Text("the address of an OTLP collector by HTTP"), NOTHING, "http://127.0.0.1:4318", "base address of a collector: spans `process` and `deliver {component}` below the event's `traceparent`").secret(),
];

/// Names of the prefix that are read elsewhere, and by what.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("DATA_DIR", "option --data-dir"),
    ("LISTEN", "option --listen"),
    ("SOURCE", "option --source"),
    ("ACTIONS", "option --actions"),
    ("CLOCK", "option --clock"),
    ("CONFIG", "option --config"),
    ("LOG", "what is logged, such as debug or info,sqlx=warn"),
    ("CHROMIUM", "tests: the browser"),
    ("COMPONENTS_DIR", "tests and demo --real: where brokers, databases and sidecars are installed"),
];

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The nearest name to one that there is not.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let found = SETTINGS.iter().find(|known| last(known.name) == last(name) || known.name.starts_with(name));
    let spelled = |known: &&Setting| (strsim::damerau_levenshtein(known.name, name), known.name);
    let near = || SETTINGS.iter().min_by_key(spelled).filter(|known| spelled(known).0 <= 2);
    found.or_else(near).map(|setting| setting.name)
}

/// The name of a setting in the environment.
pub fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('.', "__"))
}

/// The setting that a variable of the environment means: `None` where it is read elsewhere, or is one that Kubernetes
/// makes for a Service.
pub fn key_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    let key = name.to_ascii_lowercase().replace("__", ".");
    let other = ELSEWHERE.iter().any(|(elsewhere, _)| *elsewhere == name) || is_of_a_service(name);
    (find(&key).is_some() || !other).then_some(key)
}

/// Whether Kubernetes makes a variable of this name (after the prefix) for a Service that is called tasktide, or begins
/// so: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_{name}`, `…_PORT`, `…_PORT_{n}_{protocol}` and the latter
/// with `_PROTO`, `_PORT`, `_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    (0..words.len()).any(|from| match &words[from..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT"] | ["PORT"] => true,
        ["SERVICE", "PORT", name @ ..] => name.iter().any(|word| !word.is_empty()),
        ["PORT", n, kind] => number(n) && protocol(kind),
        ["PORT", n, kind, "PROTO" | "PORT" | "ADDR"] => number(n) && protocol(kind),
        _ => false,
    })
}

/// The table of the page.
pub fn markdown() -> String {
    let mut text = "| setting | default | |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default = match setting.default {
            Value(value) => format!("`{value}`"),
            Unset(words) => words.to_owned(),
        };
        let secret = if setting.secret { " (never shown)" } else { "" };
        let about = format!("{}: {}; such as `{}`{secret}", setting.kind, setting.about, setting.example);
        text += &format!("| `{}` | {} | {} |\n", setting.name, cell(&default), cell(&about));
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), SETTINGS.len(), "a name twice");
        for setting in SETTINGS {
            assert_eq!(key_of(&setting.variable()).as_deref(), Some(setting.name));
            assert!(!setting.about.is_empty() && !setting.example.is_empty(), "{setting:?}");
        }
    }

    #[track_caller]
    fn check(variable: &str, key: Option<&str>) {
        assert_eq!(key_of(variable).as_deref(), key, "{variable}");
    }

    #[test]
    fn variables_of_services_are_no_settings() {
        for of in ["", "QUERY_API_", "PIPELINE_", "A__B_"] {
            for name in [
                "SERVICE_HOST",
                "SERVICE_PORT",
                "SERVICE_PORT_HTTP",
                "SERVICE_PORT_HTTP_METRICS",
                "PORT",
                "PORT_8080_TCP",
                "PORT_8080_TCP_PROTO",
                "PORT_8080_TCP_PORT",
                "PORT_8080_TCP_ADDR",
                "PORT_53_UDP_ADDR",
                "PORT_9_SCTP",
            ] {
                check(&format!("TASKTIDE_{of}{name}"), None);
            }
        }
        check("TASKTIDE_LISTEN", None);
        check("PATH", None);
        check("TASKTIDE_SEED", Some("seed"));
        check("TASKTIDE_TIMEZONE", Some("timezone"));
        check("TASKTIDE_REMINDERS__MAX_LATE", Some("reminders.max_late"));
        for unknown in ["SERVICE", "HOST", "SERVICE_HOSTS", "PORTS", "PORT_TCP", "PORT_80_HTTP", "PORT_80_TCP_NAME"] {
            check(&format!("TASKTIDE_{unknown}"), Some(&unknown.to_ascii_lowercase()));
        }
    }

    #[test]
    fn the_nearest_name() {
        assert_eq!(nearest("max_late"), Some("reminders.max_late"));
        assert_eq!(nearest("remindrs.max_late"), Some("reminders.max_late"));
        assert_eq!(nearest("store.urls"), Some("store.url"));
        assert_eq!(nearest("colour"), None);
    }

    /// Between these lines of the page stands the table.
    const MARKS: [&str; 2] = ["<!-- settings: made by `tasktide settings --markdown` -->\n\n", "\n<!-- end -->"];

    #[test]
    fn the_page_has_the_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/contract.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(MARKS[0]).expect("the mark before the table");
        let (table, after) = rest.split_once(MARKS[1]).expect("the mark after the table");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, [before, MARKS[0], &markdown(), MARKS[1], after].concat()).unwrap();
        } else {
            assert_eq!(table, markdown(), "UPDATE_EXPECT=1 writes the table of docs/contract.md anew");
        }
    }
}
