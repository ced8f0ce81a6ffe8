//! A client that follows a stream, loses its connection now and then, and goes on where it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The longest wait for an event that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is followed: a list with its filters.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    /// `tasks`, `audit`, the name of a view.
    pub topic: &'static str,
    /// As in a query, without `topics`.
    pub filters: &'static str,
}

/// What a client that applies a stream has.
pub struct Follower {
    followed: Followed,
    response: Option<reqwest::Response>,
    text: Vec<u8>,
    last: Option<String>,
    /// The last change that it was told since it began anew.
    told: Option<(u64, u64, u64)>,
    rows: BTreeMap<String, Value>,
    /// The last commit when it read the list in place of lost events: what is told up to there may be in the list.
    listed: Option<u64>,
    /// How often it was told to begin anew.
    pub resets: usize,
}

/// Where a product answers.
pub struct Place<'a> {
    pub runtime: &'a Runtime,
    pub client: &'a reqwest::Client,
    pub base: String,
}

impl Place<'_> {
    fn json(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.base);
        self.runtime.block_on(async {
            let answer = self.client.get(&url).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{url}");
            answer.json().await.expect("JSON")
        })
    }

    /// The last commit that is told, by what a stream that begins now has for its first id.
    fn last_commit(&self) -> u64 {
        let url = format!("{}/v1/stream", self.base);
        self.runtime.block_on(async {
            let mut response = self.client.get(&url).send().await.expect("an answer");
            let mut text = String::new();
            loop {
                let chunk = response.chunk().await.expect("the stream goes on").expect("it is open");
                text.push_str(std::str::from_utf8(&chunk).expect("a stream is text"));
                let whole = text.rfind('\n').map_or("", |end| &text[..end]);
                if let Some(id) = whole.lines().find_map(|line| line.strip_prefix("id: ")) {
                    return place(id).0 - 1;
                }
            }
        })
    }

    fn list(&self, followed: Followed) -> BTreeMap<String, Value> {
        let mut rows = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let page = self.json(&format!("/v1/{}?limit=200&{}{cursor}", followed.topic, followed.filters));
            for row in page["items"].as_array().expect("a list has items") {
                rows.insert(key(row), kept(row));
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

/// Commit, place in it, and place among what the clock changed before it, of an id.
fn place(id: &str) -> (u64, u64, u64) {
    let mut parts = id.split('-').map(|part| part.parse().expect("a number"));
    (parts.next().expect("a commit"), parts.next().expect("a place"), parts.next().unwrap_or_default())
}

/// An occurrence is known by its task, everything else by its id.
fn key(row: &Value) -> String {
    row["id"].as_str().or(row["taskId"].as_str()).expect("a key").to_owned()
}

/// What a follower keeps of a row. An entry is told once, and loses its personal fields when its user is erased: its
/// hash says that it is the same.
fn kept(row: &Value) -> Value {
    match &row["hash"] {
        Value::Null => row.clone(),
        hash => hash.clone(),
    }
}

impl Follower {
    /// One who has nothing yet.
    pub fn new(followed: Followed) -> Follower {
        let rows = BTreeMap::new();
        Follower { followed, response: None, text: Vec::new(), last: None, told: None, rows, listed: None, resets: 0 }
    }

    /// Loses the connection, after some of what is there.
    pub fn lose(&mut self, at: &Place<'_>, rng: &mut StdRng) {
        for _ in 0..rng.random_range(0..6) {
            if self.response.is_none() || !self.take(at, Duration::from_millis(5)) {
                break;
            }
        }
        self.response = None;
        self.text.clear();
    }

    /// Reads until it has what the list shows; says what is wrong if that does not come.
    pub fn catch_up(&mut self, at: &Place<'_>) -> Result<(), String> {
        let expected = at.list(self.followed);
        let deadline = Instant::now() + PATIENCE;
        while self.rows != expected || self.last.is_none() {
            if !self.take(at, deadline.saturating_duration_since(Instant::now())) && Instant::now() >= deadline {
                let differs = |(key, row): &(&String, &Value)| self.rows.get(*key) != Some(row);
                let lacks: Vec<_> = expected.iter().filter(differs).map(|(key, _)| key).collect();
                let beyond: Vec<_> = self.rows.keys().filter(|key| !expected.contains_key(*key)).collect();
                return Err(format!("{:?} lacks {lacks:?}, has {beyond:?} beyond", self.followed));
            }
        }
        Ok(())
    }

    fn open(&mut self, at: &Place<'_>) {
        let begin = if self.last.is_none() { "&snapshot=true" } else { "" };
        let Followed { topic, filters } = self.followed;
        let mut request = at.client.get(format!("{}/v1/stream?topics={topic}&{filters}{begin}", at.base));
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        let response = at.runtime.block_on(request.send()).expect("an answer");
        assert_eq!(response.status(), 200);
        self.response = Some(response);
        if self.last.is_none() {
            self.rows.clear();
        }
    }

    /// Takes one event; `false` when none came in time, or the connection ended.
    fn take(&mut self, at: &Place<'_>, patience: Duration) -> bool {
        // Comments that keep the connection open are no events.
        let deadline = Instant::now() + patience;
        if self.response.is_none() {
            self.open(at);
        }
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                let block = String::from_utf8(block).expect("a stream is text");
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (event, id, data) = (field("event: "), field("id: "), field("data: "));
                if let (Some(event), Some(data)) = (event, data) {
                    self.apply(at, &event, id.as_deref(), &serde_json::from_str(&data).expect("data is JSON"));
                    self.last = id.or(self.last.take());
                    return true;
                }
                self.last = id.or(self.last.take());
                continue;
            }
            let response = self.response.as_mut().expect("it is open");
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = at.runtime.block_on(async { tokio::time::timeout(left, response.chunk()).await });
            match chunk {
                Ok(Ok(Some(chunk))) => self.text.extend_from_slice(&chunk),
                Ok(Ok(None) | Err(_)) => {
                    self.response = None;
                    self.text.clear();
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    fn apply(&mut self, at: &Place<'_>, event: &str, id: Option<&str>, data: &Value) {
        let told = || format!("{:?} was told {event} {id:?} {data}", self.followed);
        // Of a turn before the next commit nothing tells whether the list was read before it.
        let commit = id.map(|id| match place(id) {
            (n, 0, _) => n - 1,
            (n, _, _) => n,
        });
        let lenient = self.listed.is_some_and(|listed| commit.is_some_and(|commit| commit <= listed));
        let kind = event.rsplit('.').next();
        if let Some(at) = id.map(place).filter(|_| matches!(kind, Some("upsert" | "append" | "delete"))) {
            assert!(self.told.is_none_or(|last| last < at), "{}, after {:?}", told(), self.told);
            self.told = Some(at);
        }
        match kind {
            Some("upsert" | "append") => {
                let before = self.rows.insert(key(data), kept(data));
                // A row may come as it was, by a later commit; in a snapshot each is there once.
                assert!(before.is_none() || id.is_some(), "{} again", told());
            }
            Some("delete") => {
                assert!(lenient || self.rows.contains_key(&key(data)), "{}, which it did not have", told());
                self.rows.remove(&key(data));
            }
            Some("reset") => {
                self.rows = at.list(self.followed);
                self.told = None;
                self.listed = Some(at.last_commit());
                self.resets += 1;
            }
            _ => {}
        }
    }
}
