//! Commands that work beside a running Tasktide, or without one.

pub mod ingest;
pub mod query_api;
pub mod rrule;
pub mod tail;
pub mod topics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::Cli;

/// Logs go to standard error: JSON lines when it is not a terminal (contract §9). `TASKTIDE_LOG` sets the filter.
pub fn start_logging(_cli: &Cli) {
    let filter = EnvFilter::try_from_env("TASKTIDE_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
