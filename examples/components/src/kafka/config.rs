//! What a broker is told: each node is broker and controller, everything on loopback.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Options;
use super::secure::Certificates;
use crate::free_port;

pub(super) const BROKER: &str = "kafka.Kafka";
pub(super) const FORMATTER: &str = "kafka.tools.StorageTool";

/// Where a broker listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) plain: u16,
    pub(super) controller: u16,
    /// Without TLS, for clients that come by a proxy.
    pub(super) proxied: u16,
    /// TLS with a password, and TLS with a client's certificate.
    pub(super) secure: Option<(u16, u16)>,
}

impl Ports {
    pub(super) fn free(secure: bool) -> anyhow::Result<Ports> {
        let secure = if secure { Some((free_port()?, free_port()?)) } else { None };
        Ok(Ports { plain: free_port()?, controller: free_port()?, proxied: free_port()?, secure })
    }
}

/// Name and password of the user of the secured listener.
pub(super) const USER: (&str, &str) = ("tasktide", "spring-tide");

/// Most copies of the broker's own topics.
const COPIES_MAX: usize = 3;

/// Node `id` of a cluster: ids are counted from 1, in the order of `nodes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    pub(super) id: usize,
    pub(super) nodes: &'a [Ports],
}

impl<'a> Node<'a> {
    pub(super) fn all(nodes: &'a [Ports]) -> impl Iterator<Item = Node<'a>> {
        (1..=nodes.len()).map(move |id| Node { id, nodes })
    }

    pub(super) fn ports(&self) -> &'a Ports {
        &self.nodes[self.id - 1]
    }

    fn voters(&self) -> String {
        let voters = self.nodes.iter().zip(1..).map(|(ports, id)| format!("{id}@127.0.0.1:{}", ports.controller));
        voters.collect::<Vec<_>>().join(",")
    }
}

/// Writes the configuration of `node` into `dir`.
pub(super) fn write(
    dir: &Path,
    node: Node<'_>,
    certificates: Option<&Certificates>,
    options: &Options,
) -> anyhow::Result<PathBuf> {
    let Ports { plain, controller, proxied, secure } = *node.ports();
    let copies = node.nodes.len().min(COPIES_MAX);
    let in_sync = copies.saturating_sub(1).max(1);
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    let mut lines = String::new();
    if let (Some((password, certificate)), Some(certificates)) = (secure, certificates) {
        write!(listeners, ",SASL_SSL://127.0.0.1:{password},SSL://127.0.0.1:{certificate}")?;
        protocols.push_str(",SASL_SSL:SASL_SSL,SSL:SSL");
        lines.push_str(&secure_lines(certificates));
    }
    let mut advertised = listeners.clone();
    if let Some(proxy) = &options.proxy {
        write!(listeners, ",PROXIED://127.0.0.1:{proxied}")?;
        write!(advertised, ",PROXIED://{proxy}")?;
        protocols.push_str(",PROXIED:PLAINTEXT");
    }
    let data = dir.join("logs");
    let text = format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         listeners={listeners}\n\
         advertised.listeners={advertised}\n\
         listener.security.protocol.map={protocols}\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.voters={voters}\n\
         log.dirs={data}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor={copies}\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor={copies}\n\
         transaction.state.log.min.isr={in_sync}\n\
         transaction.state.log.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor={copies}\n\
         share.coordinator.state.topic.min.isr={in_sync}\n\
         default.replication.factor={copies}\n\
         min.insync.replicas={in_sync}\n\
         group.initial.rebalance.delay.ms=0\n\
         num.network.threads=2\n\
         num.io.threads=4\n\
         log.cleaner.dedupe.buffer.size=16777216\n\
         log.message.timestamp.after.max.ms={any_time}\n\
         {lines}{more}\n",
        id = node.id,
        voters = node.voters(),
        data = data.display(),
        // Records may be of years to come: tests have nothing fall due by itself.
        any_time = i64::MAX,
        more = options.lines.join("\n"),
    );
    let file = dir.join("server.properties");
    fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
    Ok(file)
}

fn secure_lines(certificates: &Certificates) -> String {
    let mut lines = String::new();
    for listener in ["sasl_ssl", "ssl"] {
        for (key, value) in [
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", certificates.broker_key_and_chain().display().to_string()),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", certificates.ca().display().to_string()),
        ] {
            lines.push_str(&format!("listener.name.{listener}.{key}={value}\n"));
        }
    }
    let (user, password) = USER;
    let module = "org.apache.kafka.common.security";
    lines.push_str(&format!(
        "listener.name.ssl.ssl.client.auth=required\n\
         listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}=\"{password}\";\n\
         listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required;\n"
    ));
    lines
}

/// Gives the directory of a new broker its first content; with a user for SCRAM.
pub(super) fn format(command: &mut Command, config: &Path, user: Option<(&str, &str)>) -> anyhow::Result<()> {
    // The cluster's id: twenty-two characters of the alphabet that the broker's own ids are made of. What stands alone on
    // loopback needs no other.
    command.args(["format", "--ignore-formatted", "-t", "TasktideTasktideTaskti", "-c"]).arg(config);
    if let Some((name, password)) = user {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            command.arg("--add-scram").arg(format!("{mechanism}=[name={name},password={password}]"));
        }
    }
    let output = command.stdin(Stdio::null()).output().context("could not run the broker's formatter")?;
    if !output.status.success() {
        bail!(
            "formatting the broker's directory: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Whether the broker has said in its log that it is there.
pub(super) fn has_started(log: &Path) -> bool {
    fs::read(log).is_ok_and(|text| String::from_utf8_lossy(&text).contains("Kafka Server started"))
}
