//! Publishing what the outbox holds, in order and at least once.
//!
//! This file is meant to be taken along: a service that owns tasks needs only a table
//! `outbox (n, event, published_at)`, an insert into it in the transaction of every change, and this.
//!
//! - **Order.** Events are posted by `n`, one batch at a time, and the next batch waits for the answer
//!   to the last one. `n` must grow in the order in which changes commit. With SQLite it does; with
//!   a database that has concurrent writers, take a lock in the transaction before the insert.
//! - **At least once.** A batch is marked after the receiver has said 202, which it does once the
//!   events are durable. A crash between the two sends the batch again, with the same bytes and ids;
//!   the receiver knows an event by (`source`, `id`).
//! - **Never lost, never skipped.** Whatever the answer, the batch stays at the head and is tried
//!   again, after a pause that grows to [`PAUSE_MAX`]. Changes go on meanwhile; the outbox holds them.
//! - **Prompt.** The bell rings after each commit, so an event leaves at once; the table is also looked
//!   at every [`LOOK_EVERY`], for writers in other processes.
//!
//! One publisher a table. Of the published rows the newest [`PUBLISHED_KEPT`] stay for a look.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use sqlx::SqlitePool;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::moment::Moment;

const BATCH_ROWS_MAX: i64 = 500;
const BATCH_BYTES_MAX: usize = 4 << 20;
const PUBLISHED_KEPT: i64 = 10_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Why a batch is still in the outbox.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("could not read or mark the outbox")]
    Outbox(#[from] sqlx::Error),
    #[error("no answer")]
    Unanswered(#[from] reqwest::Error),
    /// A smaller batch may pass.
    #[error("a batch of {rows} events is too large for the receiver")]
    TooLarge { rows: usize },
    #[error("answered {status}")]
    Refused { status: StatusCode, retry_after: Option<Duration> },
}

/// Posts the rows of an outbox to a URL.
pub struct Publisher {
    pool: SqlitePool,
    bell: Arc<Notify>,
    url: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Publisher {
    /// Publishes the outbox in `pool` to `url`, and looks at it whenever `bell` rings.
    pub fn new(pool: SqlitePool, bell: Arc<Notify>, url: impl Into<String>) -> Publisher {
        Publisher { pool, bell, url: url.into(), token: None, http: reqwest::Client::new() }
    }

    /// Sends `token` with every batch as a bearer token.
    pub fn with_token(mut self, token: Option<String>) -> Publisher {
        self.token = token;
        self
    }

    /// Publishes until `stop` turns true, then once more as much as the receiver takes.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut rows_max = BATCH_ROWS_MAX;
        let mut failures = 0;
        loop {
            let stopping = *stop.borrow_and_update();
            let pause = match self.publish(rows_max).await {
                Ok(0) if stopping => return,
                Ok(0) => None,
                Ok(_) => {
                    if failures > 0 {
                        info!(failures, "events are taken again");
                    }
                    (failures, rows_max) = (0, BATCH_ROWS_MAX);
                    continue;
                }
                Err(PublishError::TooLarge { rows }) if rows > 1 => {
                    rows_max = rows as i64 / 2;
                    continue;
                }
                Err(error) => {
                    failures += 1;
                    let pause = pause_after(failures, &error);
                    warn!(
                        error = &error as &dyn std::error::Error,
                        failures,
                        url = self.url,
                        "events not published; will retry"
                    );
                    Some(pause)
                }
            };
            if stopping {
                return;
            }
            tokio::select! {
                () = sleep(pause.unwrap_or(LOOK_EVERY)) => {}
                // While the receiver is away a new event is no reason to try sooner.
                () = self.bell.notified(), if pause.is_none() => {}
                changed = stop.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Posts the oldest batch and marks it. Returns how many events it had.
    async fn publish(&self, rows_max: i64) -> Result<usize, PublishError> {
        let batch = self.oldest(rows_max).await?;
        let Some((last, _)) = batch.last() else {
            return Ok(0);
        };
        let events: Vec<&str> = batch.iter().map(|(_, event)| event.as_str()).collect();
        let mut call = self
            .http
            .post(&self.url)
            .timeout(ANSWER_WITHIN)
            .header(CONTENT_TYPE, "application/cloudevents-batch+json")
            .body(format!("[{}]", events.join(",")));
        if let Some(token) = &self.token {
            call = call.bearer_auth(token);
        }
        let answer = call.send().await?;
        match answer.status() {
            StatusCode::ACCEPTED => {}
            StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(PublishError::TooLarge { rows: batch.len() });
            }
            status => {
                let retry_after = answer
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse().ok())
                    .map(Duration::from_secs);
                return Err(PublishError::Refused { status, retry_after });
            }
        }
        self.mark(*last).await?;
        Ok(batch.len())
    }

    async fn oldest(&self, rows_max: i64) -> Result<Vec<(i64, String)>, sqlx::Error> {
        let mut batch: Vec<(i64, String)> =
            sqlx::query_as("SELECT n, event FROM outbox WHERE published_at IS NULL ORDER BY n LIMIT ?")
                .bind(rows_max)
                .fetch_all(&self.pool)
                .await?;
        let mut bytes = 0;
        let fitting = batch
            .iter()
            .take_while(|(_, event)| {
                bytes += event.len() + 1;
                bytes <= BATCH_BYTES_MAX
            })
            .count();
        batch.truncate(fitting.max(1));
        Ok(batch)
    }

    async fn mark(&self, last: i64) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("UPDATE outbox SET published_at = ? WHERE n <= ? AND published_at IS NULL")
            .bind(Moment::now().to_string())
            .bind(last)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM outbox WHERE n <= ?").bind(last - PUBLISHED_KEPT).execute(&mut *tx).await?;
        tx.commit().await
    }
}

/// Doubles with every failure, with jitter; a receiver that names a time is given it.
fn pause_after(failures: u32, error: &PublishError) -> Duration {
    if let PublishError::Refused { retry_after: Some(pause), .. } = error {
        return (*pause).clamp(PAUSE_MIN, 4 * PAUSE_MAX);
    }
    let bound = PAUSE_MAX.min(PAUSE_MIN * 2u32.saturating_pow(failures.min(16)));
    rand::rng().random_range(PAUSE_MIN / 2..=bound)
}

/// Waits for a publisher that was told to stop, but not for a receiver that does not answer.
pub(crate) async fn finish(publisher: tokio::task::JoinHandle<()>, within: Duration) {
    let abort = publisher.abort_handle();
    if timeout(within, publisher).await.is_err() {
        abort.abort();
        warn!("stopped with unpublished events; they stay in the outbox");
    }
}
