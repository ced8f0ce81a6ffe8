//! `tasktide tail`: the records of a topic, a line each.

use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Context;
use broker::log::{Log, tail};

use crate::cli::TailOptions;

/// Runs the command.
pub async fn command(options: TailOptions) -> anyhow::Result<ExitCode> {
    let from: tail::From = options.from.parse()?;
    let log = Log::open_read_only(&options.data_dir).await?;
    let mut failed = None;
    let mut out = std::io::stdout().lock();
    tail::tail(&log, &options.topic, from, options.follow, |record| {
        let written = serde_json::to_string(&tail::Line(record)).map_err(std::io::Error::other);
        match written.and_then(|line| writeln!(out, "{line}")) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })
    .await?;
    match failed {
        // The reader of a pipe that has seen enough is no failure.
        Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error).context("could not print"),
        None => Ok(ExitCode::SUCCESS),
    }
}
