//! How the broker is reached, in the words of the Dapr component for Kafka (contract §11).

use std::ops::RangeInclusive;
use std::path::PathBuf;

use broker::kafka::{Access, Identity, Mechanism, Options, Pem, Tls};

use super::given::{Given, SettingError};
use super::secrets::only_ours;
use super::some;

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
        let partitions = from.optional("source.partitions", partitions)?;
        let group_id = from.value("group_id", some)?;
        Ok(Kafka { access: access(from)?, group_id, partitions })
    }

    /// Options of the source; an error where the broker's address is missing.
    pub fn options(&self, allow_truncated: bool) -> Result<Options, SettingError> {
        let access = self.access()?.clone();
        Ok(Options { access, group_id: self.group_id.clone(), partitions: self.partitions.clone(), allow_truncated })
    }

    /// Refuses files with secrets that others can read.
    pub(super) fn are_files_ours(&self) -> Result<(), SettingError> {
        let Some(access) = &self.access else { return Ok(()) };
        if let Identity::Token(file) = &access.identity {
            only_ours("kafka.token_file", file)?;
        }
        match access.tls.as_ref().and_then(|tls| tls.client.as_ref()).and_then(|(_, key)| key.file()) {
            Some(file) => only_ours("kafka.client_key", file),
            None => Ok(()),
        }
    }

    /// How the broker is reached; an error where its address is missing.
    pub fn access(&self) -> Result<&Access, SettingError> {
        self.access.as_ref().ok_or(SettingError::missing("kafka.brokers", "a Kafka source"))
    }
}

fn partitions(text: &str) -> Option<RangeInclusive<i32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
    (0 <= first && first <= last).then_some(first..=last)
}

fn access(from: &mut Given) -> Result<Option<Access>, SettingError> {
    let brokers = from.optional("kafka.brokers", |t| {
        let named = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        t.split(',').all(|broker| named(broker.trim())).then(|| t.to_owned())
    })?;
    let auth = match from.word("kafka.auth_type")? {
        "password" => AuthType::Password,
        "mtls" => AuthType::Mtls,
        "oidc" => AuthType::Oidc,
        _ => AuthType::None,
    };
    let username = from.optional("kafka.sasl_username", some)?;
    let password = from.optional("kafka.sasl_password", some)?;
    let mechanism = from.optional_word("kafka.sasl_mechanism")?.and_then(Mechanism::parse);
    let token_file = from.optional("kafka.token_file", |t| some(t).map(PathBuf::from))?;
    let ca = from.optional("kafka.ca_cert", pem_of)?;
    let certificate = from.optional("kafka.client_cert", pem_of)?;
    let key = from.optional("kafka.client_key", pem_of)?;
    let plain = from.optional("kafka.disable_tls", |t| t.parse::<bool>().ok())?;
    let plain = plain.unwrap_or(auth == AuthType::None && ca.is_none());
    let Some(brokers) = brokers else { return Ok(None) };

    let identity = identity(auth, username, password, mechanism, token_file)?;
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) if auth == AuthType::Mtls => {
            return Err(SettingError::missing("kafka.client_cert", "kafka.auth_type=mtls"));
        }
        (None, None) => None,
        (Some(_), None) => return Err(SettingError::missing("kafka.client_key", "kafka.client_cert")),
        (None, Some(_)) => return Err(SettingError::missing("kafka.client_cert", "kafka.client_key")),
    };
    if plain && auth == AuthType::Mtls {
        return Err(SettingError::Contradiction {
            name: "kafka.disable_tls",
            with: "as true with kafka.auth_type=mtls: certificates are shown by TLS",
        });
    }
    let tls = (!plain).then_some(Tls { ca, client });
    Ok(Some(Access { brokers, tls, identity }))
}

fn identity(
    auth: AuthType,
    username: Option<String>,
    password: Option<String>,
    mechanism: Option<Mechanism>,
    token_file: Option<PathBuf>,
) -> Result<Identity, SettingError> {
    let missing = |name| SettingError::missing(name, "kafka.auth_type=password");
    match auth {
        AuthType::None | AuthType::Mtls if username.is_some() => Err(SettingError::Contradiction {
            name: "kafka.sasl_username",
            with: "without kafka.auth_type=password: nobody would be told it",
        }),
        AuthType::None | AuthType::Mtls => Ok(Identity::Unnamed),
        AuthType::Password => Ok(Identity::Password {
            username: username.ok_or(missing("kafka.sasl_username"))?,
            password: password.ok_or(missing("kafka.sasl_password"))?,
            mechanism: mechanism.ok_or(missing("kafka.sasl_mechanism"))?,
        }),
        AuthType::Oidc => {
            let missing = SettingError::missing("kafka.token_file", "kafka.auth_type=oidc");
            Ok(Identity::Token(token_file.ok_or(missing)?))
        }
    }
}

/// A text, or a file that is there.
fn pem_of(value: &str) -> Option<Pem> {
    let pem = Pem::from_setting(value);
    pem.file().is_none_or(|file| file.is_file()).then_some(pem)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Kafka, SettingError> {
        let given: BTreeMap<String, Value> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect();
        Kafka::read(&mut Given::new(given, BTreeSet::new()))
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
            "setting \"kafka.sasl_password\" is not set, but kafka.auth_type=password needs it; for example kafka.sasl_password=secret:kubernetes/kafka/password",
        );
        check(
            &[("kafka.auth_type", "scram")],
            "setting \"kafka.auth_type\" is \"scram\", which is not none, password, mtls or oidc; for example kafka.auth_type=password",
        );
        check(
            &[("kafka.auth_type", "mtls")],
            "setting \"kafka.client_cert\" is not set, but kafka.auth_type=mtls needs it; for example kafka.client_cert=/etc/kafka/user.crt",
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
