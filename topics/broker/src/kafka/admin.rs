//! The topics of the list on a broker: made, and compared.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use topics::topic_list::{TOPICS, TopicSpec};

use super::connection::Connection;
use super::token::TokenError;
use super::{Access, Identity, native, token};

const ASK_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const KNOWN_AFTER_LOOKS: usize = 100;

/// How often each record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Copies.
    pub factor: i32,
    /// Copies that must be written before a write counts: `min.insync.replicas`.
    pub min_in_sync: i32,
}

/// Why topics could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The broker did not do it.
    #[error("could not {doing}")]
    Broker {
        /// What was attempted.
        doing: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// There is no token that can be used.
    #[error("there is no token for the broker")]
    Token {
        /// Why.
        #[source]
        source: TokenError,
    },
}

fn failed(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> AdminError {
    let doing = doing.into();
    move |source| AdminError::Broker { doing, source }
}

/// What a topic is told beside its number of partitions, in the words of the broker.
pub fn configuration(spec: &TopicSpec, replication: Replication) -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", spec.cleanup.to_owned()),
        ("compression.type", "producer".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("min.insync.replicas", replication.min_in_sync.to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("retention.ms", spec.retention_ms.unwrap_or(-1).to_string()),
    ]
}

/// Something of a topic that is not as the list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The topic.
    pub topic: &'static str,
    /// What of it: `partitions`, `replication.factor`, or a setting.
    pub what: String,
    /// As it is on the broker.
    pub is: String,
    /// As it should be.
    pub should: String,
}

impl Difference {
    /// Whether [`Admin::apply`] sets it right: numbers of partitions and copies of a topic that is there it leaves alone.
    fn can_be_mended(&self) -> bool {
        !matches!(self.what.as_str(), "partitions" | "replication.factor")
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} is {}, should be {}", self.topic, self.what, self.is, self.should)
    }
}

/// Looks after the topics of a broker.
pub struct Admin {
    client: AdminClient<Connection>,
    replication: Replication,
}

impl Admin {
    /// Connects when it is first asked. A token is read now: what looks after topics is made for one command.
    pub fn new(access: &Access, replication: Replication) -> Result<Admin, AdminError> {
        let client: AdminClient<Connection> = access
            .client_config()
            .create_with_context(Connection::new(access))
            .map_err(failed("make a client of these settings"))?;
        if let Identity::Token(file) = &access.identity {
            let given = token::read(file).and_then(|token| {
                let refused = |detail| TokenError::Refused { path: file.display().to_string(), detail };
                native::give_token(client.inner(), &token).map_err(refused)
            });
            given.map_err(|source| AdminError::Token { source })?;
        }
        Ok(Admin { client, replication })
    }

    /// Everything that is not as the list says.
    pub async fn differences(&self) -> Result<Vec<Difference>, AdminError> {
        let mut found = Vec::new();
        for spec in &TOPICS {
            let differ = |what: &str, is: String, should: String| Difference {
                topic: spec.name,
                what: what.to_owned(),
                is,
                should,
            };
            let Some((partitions, factor)) = self.shape(spec.name)? else {
                found.push(differ(
                    "the topic",
                    "absent".to_owned(),
                    format!("there with {} partitions", spec.partitions),
                ));
                continue;
            };
            if partitions != spec.partitions {
                found.push(differ("partitions", partitions.to_string(), spec.partitions.to_string()));
            }
            if factor != self.replication.factor {
                found.push(differ("replication.factor", factor.to_string(), self.replication.factor.to_string()));
            }
            for (name, should) in configuration(spec, self.replication) {
                let is = self.setting(spec.name, name).await?;
                if is.as_deref() != Some(should.as_str()) {
                    found.push(differ(name, is.unwrap_or_else(|| "not set".to_owned()), should));
                }
            }
        }
        Ok(found)
    }

    /// Makes what is absent and sets what differs. Returns what was done, a line each. The number of partitions and
    /// of copies of a topic that is there are left alone: [`Admin::differences`] names them.
    pub async fn apply(&self) -> Result<Vec<String>, AdminError> {
        let mut done = Vec::new();
        let differences = self.differences().await?;
        for spec in &TOPICS {
            let of: Vec<&Difference> = differences.iter().filter(|d| d.topic == spec.name).collect();
            if of.iter().any(|d| d.what == "the topic") {
                self.create(spec).await?;
                done.push(format!("{}: made with {} partitions", spec.name, spec.partitions));
            } else if of.iter().any(|d| d.can_be_mended()) {
                self.configure(spec).await?;
                done.push(format!("{}: settings changed", spec.name));
            }
        }
        if !done.is_empty() {
            self.wait_until_known().await?;
        }
        Ok(done)
    }

    /// A broker answers before it knows by itself what it was told: waits until it does, for a while.
    async fn wait_until_known(&self) -> Result<(), AdminError> {
        for _ in 0..KNOWN_AFTER_LOOKS {
            let open = self.differences().await?;
            if open.iter().all(|d| !d.can_be_mended()) {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Partitions and copies of a topic, if it is there.
    fn shape(&self, topic: &str) -> Result<Option<(i32, i32)>, AdminError> {
        let asked = self.client.inner().fetch_metadata(Some(topic), ASK_WITHIN);
        let metadata = asked.map_err(failed(format!("ask for topic \"{topic}\"")))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {
                let factor = found.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
                Ok(Some((found.partitions().len() as i32, factor as i32)))
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
            Some(code) => Err(failed(format!("ask for topic \"{topic}\""))(KafkaError::MetadataFetch(code))),
        }
    }

    async fn setting(&self, topic: &str, name: &str) -> Result<Option<String>, AdminError> {
        let resource = [ResourceSpecifier::Topic(topic)];
        let asked = self.client.describe_configs(&resource, &options()).await;
        let doing = || format!("read the settings of topic \"{topic}\"");
        let described = asked.map_err(failed(doing()))?.into_iter().next();
        let Some(described) = described else { return Ok(None) };
        let described = described.map_err(|code| failed(doing())(KafkaError::AdminOp(code)))?;
        Ok(described.get(name).and_then(|entry| entry.value.clone()))
    }

    async fn create(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        let configuration = configuration(spec, self.replication);
        let mut topic = NewTopic::new(spec.name, spec.partitions, TopicReplication::Fixed(self.replication.factor));
        for (name, value) in &configuration {
            topic = topic.set(name, value);
        }
        let doing = || format!("make topic \"{}\"", spec.name);
        for made in self.client.create_topics(&[topic], &options()).await.map_err(failed(doing()))? {
            match made {
                Ok(_) => {}
                // Somebody else was quicker, or the answer to the first try was lost.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => self.configure(spec).await?,
                Err((_, code)) => return Err(failed(doing())(KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }

    async fn configure(&self, spec: &TopicSpec) -> Result<(), AdminError> {
        let configuration = configuration(spec, self.replication);
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(spec.name));
        for (name, value) in &configuration {
            change = change.set(name, value);
        }
        let doing = || format!("change the settings of topic \"{}\"", spec.name);
        for changed in self.client.alter_configs(&[change], &options()).await.map_err(failed(doing()))? {
            changed.map_err(|(_, code)| failed(doing())(KafkaError::AdminOp(code)))?;
        }
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_WITHIN)).operation_timeout(Some(ASK_WITHIN))
}
