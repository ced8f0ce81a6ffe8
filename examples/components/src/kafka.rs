//! A broker of Apache Kafka: one node in KRaft mode, or several that are a cluster.
//!
//! It has a plain listener and, if wanted, two with TLS: one for users with a password (PLAIN, SCRAM and OAUTHBEARER
//! with unsigned tokens), one for clients with a certificate. It keeps its ports, so it can be killed and started
//! again on what it had written.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::Process;

mod config;
mod install;
mod secure;

use install::{Installed, START_WITHIN};
pub use secure::Certificates;

/// How a broker is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Also listens with TLS.
    pub secure: bool,
    /// More lines of its configuration, such as `log.segment.bytes=1048576`.
    pub lines: Vec<String>,
    /// Address of a proxy: the broker also listens at [`Broker::behind_proxy`], and who comes by there is told of the
    /// proxy, never of the broker itself.
    pub proxy: Option<String>,
}

/// What a secured client must know.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Where users with a password connect.
    pub password_address: String,
    /// Where clients with a certificate connect.
    pub certificate_address: String,
    /// The user's name.
    pub user: &'static str,
    /// The user's password.
    pub password: &'static str,
    /// Certificates of authority and client.
    pub certificates: Certificates,
}

/// A running broker, ended when this is dropped.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    ports: config::Ports,
    secure: Option<Secure>,
    config: PathBuf,
    process: Process,
}

/// Makes sure that a broker can be started; costs time only the first time on a machine.
pub fn install() -> anyhow::Result<()> {
    installed().map(drop)
}

fn installed() -> anyhow::Result<&'static Installed> {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    if let Some(installed) = INSTALLED.get() {
        return Ok(installed);
    }
    let installed = install::install()?;
    Ok(INSTALLED.get_or_init(|| installed))
}

impl Broker {
    /// Starts a new broker whose data are in `dir`, and waits until it answers.
    pub fn start(dir: &Path, options: &Options) -> anyhow::Result<Broker> {
        let nodes = [config::Ports::free(options.secure)?];
        let mut broker = Broker::begin(dir, config::Node { id: 1, nodes: &nodes }, options)?;
        broker.wait()?;
        Ok(broker)
    }

    /// Starts a node whose data are in `dir`.
    fn begin(dir: &Path, node: config::Node<'_>, options: &Options) -> anyhow::Result<Broker> {
        let installed = installed()?;
        std::fs::create_dir_all(dir)?;
        let ports = *node.ports();
        let certificates = options.secure.then(|| Certificates::make(&dir.join("certificates"))).transpose()?;
        let config = config::write(dir, node, certificates.as_ref(), options)?;
        let user = options.secure.then_some(config::USER);
        config::format(&mut installed.command(128, config::FORMATTER), &config, user)?;
        let process = run(installed, dir, &config)?;
        let secure = ports.secure.zip(certificates).map(|((password, certificate), certificates)| Secure {
            password_address: format!("127.0.0.1:{password}"),
            certificate_address: format!("127.0.0.1:{certificate}"),
            user: config::USER.0,
            password: config::USER.1,
            certificates,
        });
        Ok(Broker { dir: dir.to_owned(), ports, secure, config, process })
    }

    /// Waits until it answers.
    fn wait(&mut self) -> anyhow::Result<()> {
        let log = log_in(&self.dir);
        self.process.ready(START_WITHIN, || config::has_started(&log))
    }

    /// Where clients connect without TLS.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// Where a proxy connects, if the broker was started for one.
    pub fn behind_proxy(&self) -> String {
        format!("127.0.0.1:{}", self.ports.proxied)
    }

    /// What a client with TLS needs, if the broker was started for such.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.as_ref()
    }

    /// Kills it without warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Ends it in order.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM)
    }

    /// Lets it stand still: connections stay, nothing is answered.
    pub fn stand_still(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Starts it again after it was killed or ended, with the same data at the same address.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = run(installed()?, &self.dir, &self.config)?;
        self.wait()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        self.process.log_end()
    }
}

/// Brokers that are one cluster; each is a controller too.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Broker>,
}

impl Cluster {
    /// Starts a new cluster of `size` nodes, each in a directory of its own in `dir`, and waits until all answer.
    pub fn start(dir: &Path, size: usize, options: &Options) -> anyhow::Result<Cluster> {
        let nodes: Vec<config::Ports> =
            (0..size).map(|_| config::Ports::free(options.secure)).collect::<anyhow::Result<_>>()?;
        let begun = config::Node::all(&nodes).map(|node| Broker::begin(&dir.join(node.id.to_string()), node, options));
        let mut brokers = begun.collect::<anyhow::Result<Vec<Broker>>>()?;
        // None of them answers before most of them are there.
        brokers.iter_mut().try_for_each(Broker::wait)?;
        Ok(Cluster { brokers })
    }

    /// Where clients connect without TLS: every node, separated by commas.
    pub fn addresses(&self) -> String {
        self.brokers.iter().map(Broker::address).collect::<Vec<_>>().join(",")
    }

    /// The ids of its nodes, as metadata name them.
    pub fn ids(&self) -> std::ops::RangeInclusive<i32> {
        1..=self.brokers.len() as i32
    }

    /// A node by its id.
    pub fn node(&mut self, id: i32) -> &mut Broker {
        &mut self.brokers[id as usize - 1]
    }
}

fn log_in(dir: &Path) -> PathBuf {
    dir.join("broker.log")
}

fn run(installed: &Installed, dir: &Path, config: &Path) -> anyhow::Result<Process> {
    let log = log_in(dir);
    let _ = std::fs::remove_file(&log);
    Process::start("kafka", installed.command(256, config::BROKER).arg(config), &log)
}
