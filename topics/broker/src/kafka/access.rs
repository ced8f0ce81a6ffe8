//! How a broker is reached: addresses, TLS and who we are, in the words of the Dapr component for Kafka.

use std::fmt;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use rdkafka::client::OAuthToken;

use super::token;

/// Name under which the broker sees us.
const CLIENT_ID: &str = "tasktide";

/// Where the brokers are, and how they are spoken to.
#[derive(Clone, Debug)]
pub struct Access {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// TLS; `None` speaks without.
    pub tls: Option<Tls>,
    /// Who we are.
    pub identity: Identity,
}

/// What TLS needs.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Who signed the broker's certificate; `None` trusts what the machine trusts.
    pub ca: Option<Pem>,
    /// Our own certificate and its key.
    pub client: Option<(Pem, Pem)>,
}

/// A certificate or a key: its text, or the file that holds it.
#[derive(Clone)]
pub enum Pem {
    /// The text itself.
    Text(String),
    /// A file.
    File(PathBuf),
}

impl Pem {
    /// Reads a setting: a text begins with dashes, anything else is a path.
    pub fn from_setting(value: &str) -> Pem {
        let text = value.trim_start();
        if text.starts_with("-----BEGIN") { Pem::Text(text.to_owned()) } else { Pem::File(PathBuf::from(value)) }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Pem::Text(_) => None,
            Pem::File(path) => Some(path),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::Text(_) => f.write_str("(PEM)"),
            Pem::File(path) => path.fmt(f),
        }
    }
}

/// Who we are to the broker.
#[derive(Clone)]
pub enum Identity {
    /// Nobody, or whom our certificate names.
    Unnamed,
    /// A user with a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
        /// How it is proved.
        mechanism: Mechanism,
    },
    /// Whoever the token in this file says; the file is read again whenever the token is about to expire.
    Token(PathBuf),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unnamed => f.write_str("Unnamed"),
            Identity::Password { mechanism, .. } => write!(f, "Password({mechanism:?})"),
            Identity::Token(path) => write!(f, "Token({})", path.display()),
        }
    }
}

/// How a password is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// It is sent as it is.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// Reads the setting's word.
    pub fn parse(word: &str) -> Option<Mechanism> {
        match word {
            "PLAINTEXT" => Some(Mechanism::Plain),
            "SHA-256" => Some(Mechanism::ScramSha256),
            "SHA-512" => Some(Mechanism::ScramSha512),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Access {
    /// Without TLS and without a name.
    pub fn plain(brokers: impl Into<String>) -> Access {
        Access { brokers: brokers.into(), tls: None, identity: Identity::Unnamed }
    }

    /// The configuration that every client begins with.
    pub(super) fn client_config(&self) -> ClientConfig {
        #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
        super::waits::keep();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", CLIENT_ID)
            // A broker that stands still is found out within seconds, not a minute.
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            // Finds a leader that moved, and partitions that were added.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("allow.auto.create.topics", "false");
        let named = !matches!(self.identity, Identity::Unnamed);
        let protocol = match (&self.tls, named) {
            (None, false) => "plaintext",
            (None, true) => "sasl_plaintext",
            (Some(_), false) => "ssl",
            (Some(_), true) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            match &tls.ca {
                None => config.set("ssl.ca.location", "probe"),
                Some(ca) => set_pem(&mut config, ca, "ssl.ca.pem", "ssl.ca.location"),
            };
            if let Some((certificate, key)) = &tls.client {
                set_pem(&mut config, certificate, "ssl.certificate.pem", "ssl.certificate.location");
                set_pem(&mut config, key, "ssl.key.pem", "ssl.key.location");
            }
        }
        match &self.identity {
            Identity::Unnamed => {}
            Identity::Password { username, password, mechanism } => {
                config
                    .set("sasl.mechanism", mechanism.name())
                    .set("sasl.username", username)
                    .set("sasl.password", password);
            }
            Identity::Token(_) => {
                config.set("sasl.mechanism", "OAUTHBEARER");
            }
        }
        config
    }

    /// The token as it is now.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        match &self.identity {
            Identity::Token(file) => Ok(token::read(file).map_err(|error| topics::chain::chain(&error).to_string())?),
            _ => Err("no token is configured".into()),
        }
    }
}

fn set_pem<'a>(config: &'a mut ClientConfig, pem: &Pem, text: &str, location: &str) -> &'a mut ClientConfig {
    match pem {
        Pem::Text(pem) => config.set(text, pem),
        Pem::File(path) => config.set(location, path.to_string_lossy()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(access: &Access, key: &str, value: Option<&str>) {
        assert_eq!(access.client_config().get(key), value, "{key}");
    }

    #[test]
    fn the_words_of_the_component_become_those_of_the_client() {
        let plain = Access::plain("a:1,b:2");
        check(&plain, "bootstrap.servers", Some("a:1,b:2"));
        check(&plain, "security.protocol", Some("plaintext"));
        let identity = Identity::Password {
            username: "ann".to_owned(),
            password: "secret".to_owned(),
            mechanism: Mechanism::ScramSha512,
        };
        let named = Access { identity, ..plain.clone() };
        check(&named, "security.protocol", Some("sasl_plaintext"));
        check(&named, "sasl.mechanism", Some("SCRAM-SHA-512"));
        let tls = Tls { ca: Some(Pem::from_setting("/etc/ca.pem")), client: None };
        let named = Access { tls: Some(tls), ..named };
        check(&named, "security.protocol", Some("sasl_ssl"));
        check(&named, "ssl.ca.location", Some("/etc/ca.pem"));
        let pair = |text: &str| (Pem::from_setting(text), Pem::from_setting(text));
        let tls = Tls { ca: None, client: Some(pair("-----BEGIN X-----")) };
        let mutual = Access { tls: Some(tls), ..plain };
        check(&mutual, "security.protocol", Some("ssl"));
        check(&mutual, "ssl.ca.location", Some("probe"));
        check(&mutual, "ssl.key.pem", Some("-----BEGIN X-----"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!(
            "{:?} {:?}",
            Identity::Password { username: "ann".to_owned(), password: "hush".to_owned(), mechanism: Mechanism::Plain },
            Pem::from_setting("-----BEGIN hush")
        );
        assert_eq!(shown, "Password(Plain) (PEM)");
    }
}
