//! Commands and their options. What is set for a whole installation stands in [`crate::settings`] instead.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use topics::Timestamp;

/// Recurring tasks, reminders, an audit timeline and instant filtering for an app with tasks.
#[derive(Debug, Parser)]
#[command(name = "tasktide", version, about, long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pipeline and query API in one process; on an embedded log and store unless told otherwise.
    Run(RunOptions),
    /// `run` as in a cluster: events from Kafka, actions through the Dapr sidecar, on every address.
    Pipeline(PipelineOptions),
    /// Make, check or print the topics of a Kafka broker.
    Topics(TopicsOptions),
    /// `run` with a reference Chat API and simulated users, to watch and to try out.
    Demo(DemoOptions),
    /// Append a file of events to the embedded log.
    Ingest(IngestOptions),
    /// Print the records of a topic of the embedded log.
    Tail(TailOptions),
    /// Serve queries from the store of a running pipeline, and follow its commits.
    QueryApi(QueryApiOptions),
    /// Recompute every view and the audit chain from the log; print what differs.
    Verify(VerifyOptions),
    /// Print the next occurrences of a recurrence rule, or why it is refused.
    Rrule(RruleOptions),
    /// Print every setting: its name in the environment, what it is, its default, an example.
    Settings(SettingsOptions),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Where log, journal and tables are kept. One process at a time.
    #[arg(long, value_name = "DIR", env = "TASKTIDE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Address to serve on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", env = "TASKTIDE_LISTEN")]
    pub listen: SocketAddr,
    /// Where events come from: `log` (the embedded one), `kafka`, or `dapr` (pushed); also the setting source.mode.
    #[arg(long, value_name = "SOURCE", env = "TASKTIDE_SOURCE")]
    pub source: Option<SourceMode>,
    /// PostgreSQL database for commits, instead of the data directory: `postgres://user:password@host/database`.
    #[arg(long, value_name = "URL", value_parser = crate::settings::store_url)]
    pub store: Option<crate::settings::Secret>,
    /// Where decided actions go: `none`, `log`, `dapr`, or `chat-api=URL`.
    #[arg(long, value_name = "TARGET", default_value = "log", env = "TASKTIDE_ACTIONS")]
    pub actions: Actions,
    /// `system`, or `manual:<instant>`: time then stands still until POST /v1/ops/clock.
    #[arg(long, value_name = "CLOCK", default_value = "system", env = "TASKTIDE_CLOCK")]
    pub clock: ClockOption,
    /// Settings in TOML; the environment wins over it.
    #[arg(long, value_name = "FILE", env = "TASKTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `pipeline`.
#[derive(Clone, Debug, Args)]
pub struct PipelineOptions {
    /// Where journal and tables are kept. One process at a time.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tasktide", env = "TASKTIDE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Address to serve on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080", env = "TASKTIDE_LISTEN")]
    pub listen: SocketAddr,
    /// Where events come from.
    #[arg(long, value_name = "SOURCE", env = "TASKTIDE_SOURCE")]
    pub source: Option<SourceMode>,
    /// PostgreSQL database for commits, instead of the data directory: `postgres://user:password@host/database`.
    #[arg(long, value_name = "URL", value_parser = crate::settings::store_url)]
    pub store: Option<crate::settings::Secret>,
    /// Where decided actions go: `none`, `log`, `dapr`, or `chat-api=URL`.
    #[arg(long, value_name = "TARGET", default_value = "dapr", env = "TASKTIDE_ACTIONS")]
    pub actions: Actions,
    /// Settings in TOML; the environment wins over it.
    #[arg(long, value_name = "FILE", env = "TASKTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

impl From<PipelineOptions> for RunOptions {
    fn from(options: PipelineOptions) -> RunOptions {
        let PipelineOptions { data_dir, listen, source, store, actions, config } = options;
        RunOptions { data_dir, listen, source, store, actions, clock: ClockOption::System, config }
    }
}

/// Options of `topics`.
#[derive(Clone, Debug, Args)]
pub struct TopicsOptions {
    /// What to do.
    #[command(subcommand)]
    pub task: TopicsTask,
}

/// What to do with topics.
#[derive(Clone, Debug, Subcommand)]
pub enum TopicsTask {
    /// Make topics that are absent, and set what differs.
    Apply(BrokerOptions),
    /// Say what differs; exit 0 only when nothing does.
    Check(BrokerOptions),
    /// Print Strimzi KafkaTopic resources.
    Render(RenderOptions),
}

/// Copies of each record.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReplicationOptions {
    /// Copies of each record.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replication: i32,
    /// Copies that must be written before a write counts.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_insync: i32,
    /// One copy: a broker on this machine.
    #[arg(long, conflicts_with_all = ["replication", "min_insync"])]
    pub local: bool,
}

/// Options of `topics apply` and `topics check`.
#[derive(Clone, Debug, Args)]
pub struct BrokerOptions {
    /// Addresses of the broker; also the setting kafka.brokers.
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// Copies of each record.
    #[command(flatten)]
    pub copies: ReplicationOptions,
    /// Settings in TOML.
    #[arg(long, value_name = "FILE", env = "TASKTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `topics render`.
#[derive(Clone, Debug, Args)]
pub struct RenderOptions {
    /// Name of the Strimzi cluster.
    #[arg(long, default_value = "kafka")]
    pub cluster: String,
    /// Namespace of the resources; none without it.
    #[arg(long)]
    pub namespace: Option<String>,
    /// Copies of each record.
    #[command(flatten)]
    pub copies: ReplicationOptions,
}

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// Where data is kept; without it in a temporary directory that goes away at the end.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// On a real Kafka, PostgreSQL, Redis and Dapr sidecar, started by the command, installed where missing.
    #[arg(long)]
    pub real: bool,
    /// How many simulated users.
    #[arg(long, default_value_t = 6)]
    pub users: usize,
    /// Seed of what the users do.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Settings in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestOptions {
    /// Directory of a log that no process has open.
    #[arg(long, value_name = "DIR", required_unless_present = "url", conflicts_with = "url")]
    pub data_dir: Option<PathBuf>,
    /// Base address of a running Tasktide instead, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Topic to append to (with --data-dir).
    #[arg(long, default_value = "task-events")]
    pub topic: String,
    /// Files of events, one a line or one JSON array; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Options of `tail`.
#[derive(Clone, Debug, Args)]
pub struct TailOptions {
    /// Directory of the log; a process may have it open.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Which topic: task-events, user-events, task-reminders, task-events-dlq.
    #[arg(default_value = "task-events")]
    pub topic: String,
    /// Where to begin: start, end, an offset, or -N for the last N of each partition.
    #[arg(long, default_value = "-10", allow_hyphen_values = true)]
    pub from: String,
    /// Go on with what comes.
    #[arg(long, short)]
    pub follow: bool,
}

/// Options of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyOptions {
    /// Directory to check; no process may have it open.
    #[arg(long, value_name = "DIR", env = "TASKTIDE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Where the events came from: `log`, `kafka` or `dapr`, the last two read from the broker; also the setting
    /// source.mode.
    #[arg(long, value_name = "SOURCE", env = "TASKTIDE_SOURCE")]
    pub source: Option<SourceMode>,
    /// PostgreSQL database to check, instead of the directory's own; no process may write to it.
    #[arg(long, value_name = "URL", value_parser = crate::settings::store_url)]
    pub store: Option<crate::settings::Secret>,
    /// Settings in TOML, as they were when the data was made; the environment wins over it.
    #[arg(long, value_name = "FILE", env = "TASKTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `query-api`.
#[derive(Clone, Debug, Args)]
pub struct QueryApiOptions {
    /// Data directory of a pipeline on this machine that keeps its commits there.
    #[arg(long, value_name = "DIR", env = "TASKTIDE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database of the pipeline: `postgres://user:password@host/database`.
    #[arg(long, value_name = "URL", value_parser = crate::settings::store_url)]
    pub store: Option<crate::settings::Secret>,
    /// Address to serve on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", env = "TASKTIDE_LISTEN")]
    pub listen: SocketAddr,
    /// Settings in TOML; the environment wins over it.
    #[arg(long, value_name = "FILE", env = "TASKTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `settings`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SettingsOptions {
    /// As JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// As the table of docs/contract.md.
    #[arg(long)]
    pub markdown: bool,
}

/// Options of `rrule`.
#[derive(Clone, Debug, Args)]
pub struct RruleOptions {
    /// The rule, such as FREQ=WEEKLY;BYDAY=MO.
    #[arg(required_unless_present = "batch")]
    pub rule: Option<String>,
    /// First due: a date, a wall time, or an instant; may be left out when the rule has a DTSTART.
    #[arg(long)]
    pub start: Option<String>,
    /// IANA zone of the wall clock.
    #[arg(long, default_value = "UTC")]
    pub tz: String,
    /// Only occurrences after this.
    #[arg(long)]
    pub after: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 5)]
    pub count: usize,
    /// Read JSON lines from standard input, write one answer a line.
    #[arg(long, conflicts_with = "rule")]
    pub batch: bool,
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceMode {
    /// The embedded log.
    Log,
    /// A Kafka broker.
    Kafka,
    /// The Dapr sidecar, which pushes.
    Dapr,
}

impl FromStr for SourceMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "log" => Ok(SourceMode::Log),
            "kafka" => Ok(SourceMode::Kafka),
            "dapr" => Ok(SourceMode::Dapr),
            _ => Err("give log, kafka or dapr".to_owned()),
        }
    }
}

/// Where actions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actions {
    /// Decided and recorded only.
    None,
    /// To the embedded `task-reminders` and the list of actions.
    Log,
    /// To the Dapr sidecar.
    Dapr,
    /// Creates straight to a Chat API; reminders as with `log`.
    ChatApi(String),
}

impl FromStr for Actions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Actions::None),
            "log" => Ok(Actions::Log),
            "dapr" => Ok(Actions::Dapr),
            _ => match text.strip_prefix("chat-api=") {
                Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                    Ok(Actions::ChatApi(url.trim_end_matches('/').to_owned()))
                }
                _ => Err("give none, log, dapr, or chat-api=http://host:port".to_owned()),
            },
        }
    }
}

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockOption {
    /// The system's.
    System,
    /// Stands at this instant until it is moved.
    Manual(Timestamp),
}

impl FromStr for ClockOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("manual:").map(Timestamp::parse_rfc3339) {
            Some(Some(at)) => Ok(ClockOption::Manual(at)),
            None if text == "system" => Ok(ClockOption::System),
            _ => Err("give system, or manual:2026-03-01T08:00:00Z".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn targets_and_clocks() {
        assert_eq!("chat-api=http://127.0.0.1:9/".parse(), Ok(Actions::ChatApi("http://127.0.0.1:9".to_owned())));
        assert!("chat-api=ftp://x".parse::<Actions>().is_err());
        assert!("kafka".parse::<Actions>().is_err());
        assert!("manual:soon".parse::<ClockOption>().is_err());
        assert_eq!("system".parse(), Ok(ClockOption::System));
    }
}
