//! How the broker is reached, in the words of the Dapr component for Kafka (contract §11).

use std::ops::RangeInclusive;
use std::path::PathBuf;

use pipeline::source::kafka::{Access, Identity, Mechanism, Options, Pem, Tls};

use super::{Given, SettingError};

/// Settings of a Kafka source.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `kafka.*`; `None` without `kafka.brokers`.
    pub access: Option<Access>,
    /// `group_id`.
    pub group_id: String,
    /// `source.partitions`: which partitions of `task-events` this process reads; `None` for all.
    pub partitions: Option<RangeInclusive<i32>>,
}

/// What `kafka.auth_type` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AuthType {
    None,
    Password,
    Mtls,
    Oidc,
}

impl Kafka {
    pub(super) fn read(from: &mut Given) -> Result<Kafka, SettingError> {
        let partitions = from.text("source.partitions", "a range of partitions", "0-5", partitions)?;
        let group_id = from
            .text("group_id", "the name of a consumer group", "task-pipeline", |t| {
                (!t.is_empty()).then(|| t.to_owned())
            })?
            .unwrap_or_else(|| "task-pipeline".to_owned());
        Ok(Kafka { access: access(from)?, group_id, partitions })
    }

    /// Options of the source; an error where the broker's address is missing.
    pub fn options(&self, allow_truncated: bool) -> Result<Options, SettingError> {
        let access = self.access()?.clone();
        Ok(Options { access, group_id: self.group_id.clone(), partitions: self.partitions.clone(), allow_truncated })
    }

    /// How the broker is reached; an error where its address is missing.
    pub fn access(&self) -> Result<&Access, SettingError> {
        self.access.as_ref().ok_or(missing("kafka.brokers", "host:port, as a Kafka source needs", "kafka:9092"))
    }
}

fn missing(key: &'static str, expected: &'static str, example: &'static str) -> SettingError {
    SettingError::Invalid { key, value: "not set".to_owned(), expected, example }
}

fn partitions(text: &str) -> Option<RangeInclusive<i32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
    (0 <= first && first <= last).then_some(first..=last)
}

fn access(from: &mut Given) -> Result<Option<Access>, SettingError> {
    let brokers = from.text("kafka.brokers", "host:port, more of them separated by commas", "kafka:9092", |t| {
        let named = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        t.split(',').all(|broker| named(broker.trim())).then(|| t.to_owned())
    })?;
    let auth = from
        .text("kafka.auth_type", "none, password, mtls or oidc", "password", |t| match t {
            "none" => Some(AuthType::None),
            "password" => Some(AuthType::Password),
            "mtls" => Some(AuthType::Mtls),
            "oidc" => Some(AuthType::Oidc),
            _ => None,
        })?
        .unwrap_or(AuthType::None);
    let username = from.text("kafka.sasl_username", "a user's name", "tasktide", |t| Some(t.to_owned()))?;
    let password =
        from.text("kafka.sasl_password", "a password", "secret:kubernetes/kafka/password", |t| Some(t.to_owned()))?;
    let mechanism = from.text("kafka.sasl_mechanism", "PLAINTEXT, SHA-256 or SHA-512", "SHA-512", Mechanism::parse)?;
    let token_file =
        from.text("kafka.token_file", "a path", "/var/run/secrets/kafka/token", |t| Some(PathBuf::from(t)))?;
    let mut pem = |key, example| from.text(key, "a PEM text, or the path of one", example, pem_of);
    let ca = pem("kafka.ca_cert", "/etc/kafka/ca.crt")?;
    let certificate = pem("kafka.client_cert", "/etc/kafka/user.crt")?;
    let key = pem("kafka.client_key", "/etc/kafka/user.key")?;
    let plain = from
        .text("kafka.disable_tls", "true or false", "true", |t| t.parse::<bool>().ok())?
        .unwrap_or(auth == AuthType::None && ca.is_none());
    let Some(brokers) = brokers else { return Ok(None) };

    let identity = match auth {
        AuthType::None | AuthType::Mtls => {
            if username.is_some() {
                let expected = "set only with kafka.auth_type=password";
                return Err(SettingError::Invalid {
                    key: "kafka.sasl_username",
                    value: "set".to_owned(),
                    expected,
                    example: "(not set)",
                });
            }
            Identity::Unnamed
        }
        AuthType::Password => Identity::Password {
            username: username.ok_or(missing(
                "kafka.sasl_username",
                "a name, as kafka.auth_type=password needs",
                "tasktide",
            ))?,
            password: password.ok_or(missing(
                "kafka.sasl_password",
                "a password, as kafka.auth_type=password needs",
                "secret:…",
            ))?,
            mechanism: mechanism.ok_or(missing(
                "kafka.sasl_mechanism",
                "named, as kafka.auth_type=password needs",
                "SHA-512",
            ))?,
        },
        AuthType::Oidc => Identity::Token(token_file.ok_or(missing(
            "kafka.token_file",
            "a path, as kafka.auth_type=oidc needs",
            "/var/run/secrets/kafka/token",
        ))?),
    };
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) if auth == AuthType::Mtls => {
            return Err(missing(
                "kafka.client_cert",
                "a certificate, as kafka.auth_type=mtls needs",
                "/etc/kafka/user.crt",
            ));
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err(missing("kafka.client_key", "the key of kafka.client_cert", "/etc/kafka/user.key"));
        }
        (None, Some(_)) => {
            return Err(missing("kafka.client_cert", "the certificate of kafka.client_key", "/etc/kafka/user.crt"));
        }
    };
    if plain && auth == AuthType::Mtls {
        return Err(SettingError::Invalid {
            key: "kafka.disable_tls",
            value: "\"true\"".to_owned(),
            expected: "possible with kafka.auth_type=mtls",
            example: "false",
        });
    }
    let tls = (!plain).then_some(Tls { ca, client });
    Ok(Some(Access { brokers, tls, identity }))
}

/// A text, or a file that is there.
fn pem_of(value: &str) -> Option<Pem> {
    let pem = Pem::from_setting(value);
    pem.file().is_none_or(|file| file.is_file()).then_some(pem)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Kafka, SettingError> {
        let given: BTreeMap<String, Value> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect();
        Kafka::read(&mut Given { given, known: Vec::new() })
    }

    /// Shows protocol and identity.
    #[track_caller]
    fn check(settings: &[(&str, &str)], expected: &str) {
        let settings = [&[("kafka.brokers", "a:9092,b:9092")], settings].concat();
        let shown = match read(&settings) {
            Ok(kafka) => {
                let access = kafka.access.unwrap();
                format!("{} {:?}", if access.tls.is_some() { "tls" } else { "plain" }, access.identity)
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn kinds_of_access() {
        let user = [("kafka.auth_type", "password"), ("kafka.sasl_username", "ann"), ("kafka.sasl_password", "hush")];
        let with = |more: &[(&'static str, &'static str)]| [&user[..], more].concat();
        check(&[], "plain Unnamed");
        check(&[("kafka.ca_cert", "-----BEGIN CERTIFICATE-----")], "tls Unnamed");
        check(&with(&[("kafka.sasl_mechanism", "SHA-256")]), "tls Password(ScramSha256)");
        check(&with(&[("kafka.sasl_mechanism", "PLAINTEXT"), ("kafka.disable_tls", "true")]), "plain Password(Plain)");
        check(&[("kafka.auth_type", "oidc"), ("kafka.token_file", "/token")], "tls Token(/token)");
        let pair = [("kafka.client_cert", "-----BEGIN A"), ("kafka.client_key", "-----BEGIN B")];
        check(&[&[("kafka.auth_type", "mtls")], &pair[..]].concat(), "tls Unnamed");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let user = [("kafka.auth_type", "password"), ("kafka.sasl_username", "ann")];
        check(
            &user,
            "setting \"kafka.sasl_password\" is not set, which is not a password, as kafka.auth_type=password needs; for example kafka.sasl_password=secret:…",
        );
        check(
            &[("kafka.auth_type", "scram")],
            "setting \"kafka.auth_type\" is \"scram\", which is not none, password, mtls or oidc; for example kafka.auth_type=password",
        );
        check(
            &[("kafka.auth_type", "mtls")],
            "setting \"kafka.client_cert\" is not set, which is not a certificate, as kafka.auth_type=mtls needs; for example kafka.client_cert=/etc/kafka/user.crt",
        );
        check(
            &[("kafka.ca_cert", "/no/such/file")],
            "setting \"kafka.ca_cert\" is \"/no/such/file\", which is not a PEM text, or the path of one; for example kafka.ca_cert=/etc/kafka/ca.crt",
        );
        check(
            &[("source.partitions", "5-3")],
            "setting \"source.partitions\" is \"5-3\", which is not a range of partitions; for example source.partitions=0-5",
        );
        let none = read(&[]).unwrap().options(false).unwrap_err().to_string();
        assert!(none.contains("\"kafka.brokers\" is not set"), "{none}");
    }
}
