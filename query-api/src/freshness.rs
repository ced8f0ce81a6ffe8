//! How fresh an answer is, and waiting until it is fresh enough (contract §8.3).
//!
//! An answer is of one commit: its [`Freshness`] travels with the response, and the edge of the router writes it into
//! the headers. A client that knows where its own record went names that position and thereby reads its own write.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};

use crate::index::Freshness;
use crate::params::{Kind, Param, Params, param, position};
use crate::problem::{Code, Problem};
use crate::routes::Api;

/// Writes what an answer says of its commit.
pub(crate) fn write(seen: &Freshness, headers: &mut HeaderMap, lag_ms: u64) {
    let text = |text: &str| HeaderValue::from_str(text).expect("digits and separators are visible ASCII");
    headers.insert("x-view-position", text(&seen.positions));
    headers.insert("x-view-frontier", text(&seen.frontier.to_string()));
    headers.insert("x-view-lag-ms", HeaderValue::from(lag_ms));
}

/// Longest `wait`.
const WAIT_MAX_MS: u64 = 10_000;
const WAIT: Param = param(
    "wait",
    Kind::Integer { min: 0, max: WAIT_MAX_MS, default: 2000 },
    "How many milliseconds to wait for min_position at most.",
);

/// The parameters that every resource under `/v1` has.
pub const COMMON: &[Param] = &[
    param("tz", Kind::Zone, "IANA zone of day words and dates; default the user's, else the configured one."),
    param("min_position", Kind::Positions, "Wait until the view covers these positions, as partition:offset,…"),
    WAIT,
];

/// Header with the meaning of `min_position`.
const MIN_POSITION: &str = "x-min-position";

/// What a request asks of the freshness of its answer.
#[derive(Debug)]
pub struct Wanted {
    positions: Vec<(i32, i64)>,
    wait: Duration,
}

impl Wanted {
    /// Nothing: what there is now.
    pub fn now() -> Wanted {
        Wanted { positions: Vec::new(), wait: Duration::from_millis(2000) }
    }

    /// How long to wait at most.
    pub(crate) fn patience(&self) -> Duration {
        self.wait
    }

    /// Reads parameters and header; what is wrong is noted in `params`.
    pub fn read(params: &mut Params, headers: &HeaderMap) -> Wanted {
        let mut positions = params.positions("min_position");
        for value in headers.get_all(MIN_POSITION) {
            let read = value.to_str().map_err(|_| "must be partition:offset,…".to_owned());
            match read.and_then(|text| text.split(',').map(|p| position(p.trim())).collect::<Result<Vec<_>, _>>()) {
                Ok(more) => positions.extend(more),
                Err(reason) => params.refuse("X-Min-Position", reason),
            }
        }
        Wanted { positions, wait: Duration::from_millis(params.integer(&WAIT)) }
    }
}

/// The view is not where it was asked to be.
pub(crate) fn behind() -> Problem {
    Problem::new(Code::ViewBehind, "The view has not reached min_position; try again.")
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

impl Api {
    /// Returns once the index covers what is wanted, and with it the log end seen at the start.
    pub async fn catch_up(&self, wanted: &Wanted) -> Result<(), Problem> {
        if wanted.positions.is_empty() {
            return Ok(());
        }
        if let Some((unknown, _)) = wanted.positions.iter().find(|(p, _)| !self.status.has_partition(*p)) {
            return Err(Problem::parameter("min_position", format!("names partition {unknown}, which does not exist")));
        }
        if self.index.wait_for(&wanted.positions, wanted.wait).await { Ok(()) } else { Err(behind()) }
    }

    /// As [`Api::catch_up`], for what is read from the store: returns how far that is. It is given a while to have every
    /// commit that readers of the index can see; a slow one is read as it is then, if it has what is wanted.
    pub async fn catch_up_stored(&self, wanted: &Wanted) -> Result<Arc<Freshness>, Problem> {
        self.catch_up(wanted).await?;
        let seen = self.index.freshness();
        let wait = wanted.wait.max(Duration::from_millis(100));
        if self.hub.published(seen.n, wait).await {
            return Ok(seen);
        }
        let stored = self.hub.stored();
        let covers = wanted.positions.is_empty() || (stored.covers_start && stored.covers(&wanted.positions));
        if covers { Ok(stored) } else { Err(behind()) }
    }
}
