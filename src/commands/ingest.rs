//! `tasktide ingest`: files of events into a log, directly or through a running Tasktide.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use broker::log::Log;
use broker::log::ingest::{Batches, ingest};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use topics::clock::Clock;

use crate::cli::IngestOptions;

/// Runs the command.
pub async fn command(options: IngestOptions) -> anyhow::Result<ExitCode> {
    let log = match &options.data_dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("could not make --data-dir {}", dir.display()))?;
            Some(Log::open(dir).await?)
        }
        None => None,
    };
    let mut total = 0;
    for file in &options.files {
        let (from, bytes) = open(file)?;
        let bar = progress_bar(bytes, file);
        let events = match (&log, &options.url) {
            (Some(log), _) => {
                let clock = Clock::system();
                let done = ingest(
                    log,
                    &options.topic,
                    from,
                    || clock.now(),
                    |so_far| {
                        bar.set_position(so_far.bytes);
                        bar.set_message(HumanCount(so_far.events).to_string());
                    },
                )
                .await
                .with_context(|| format!("could not ingest {}", file.display()))?;
                done.events
            }
            (None, Some(url)) => {
                post(url, from, &bar).await.with_context(|| format!("could not ingest {}", file.display()))?
            }
            (None, None) => bail!("give --data-dir or --url"),
        };
        bar.finish_and_clear();
        total += events;
    }
    if let Some(log) = log {
        log.close().await;
    }
    println!("{total} events appended");
    Ok(ExitCode::SUCCESS)
}

fn open(file: &Path) -> anyhow::Result<(Box<dyn BufRead>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let opened = File::open(file).with_context(|| format!("could not open {}", file.display()))?;
    let bytes = opened.metadata().ok().map(|meta| meta.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, opened)), bytes))
}

fn progress_bar(bytes: Option<u64>, file: &Path) -> ProgressBar {
    let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {msg} events {eta}") {
        bar.set_style(style);
    }
    bar.with_prefix(file.display().to_string())
}

/// Posts the events in batches; each is durable when its answer comes.
async fn post(url: &str, from: Box<dyn BufRead>, bar: &ProgressBar) -> anyhow::Result<u64> {
    let client = reqwest::Client::new();
    let to = format!("{}/v1/events", url.trim_end_matches('/'));
    let mut batches = Batches::open(from)?;
    let (mut events, mut bytes) = (0, 0);
    while let Some(batch) = batches.next_batch()? {
        let answer =
            client.post(&to).header("content-type", "application/x-ndjson").body(batch.to_ndjson()).send().await?;
        if !answer.status().is_success() {
            bail!("{to} answered {}: {}", answer.status(), answer.text().await.unwrap_or_default());
        }
        events += batch.events.len() as u64;
        bytes += batch.bytes;
        bar.set_position(bytes);
        bar.set_message(HumanCount(events).to_string());
    }
    Ok(events)
}
