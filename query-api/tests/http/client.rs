//! A small HTTP/1.1 client that shows what is on the wire: chunks, trailers, half an answer.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing in these tests takes this long; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// An open connection that is read bit by bit.
pub struct Wire {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Sends a request.
    pub async fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Wire {
        let mut socket = TcpStream::connect(address).await.expect("the server listens");
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await.expect("the server reads");
        Wire { socket, buffer: Vec::new() }
    }

    /// Sends more: the body.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the server reads");
    }

    /// Reads more; `false` at the end.
    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.socket.read_buf(&mut self.buffer)).await;
        // A connection that was given up may be reset instead of closed.
        read.expect("the server answers in time").is_ok_and(|bytes| bytes > 0)
    }

    /// The bytes up to and with `end`; `None` when the connection ends before.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Status and headers.
    pub async fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await.expect("a head")).expect("ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
        (status, fields(lines))
    }

    /// The next chunk of a chunked body; `None` when the connection breaks off. The last one is empty.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = String::from_utf8(self.until(b"\r\n").await?).expect("ASCII");
        let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
        if size == 0 {
            return Some(Vec::new());
        }
        let chunk = self.exactly(size).await?;
        self.until(b"\r\n").await?;
        Some(chunk)
    }

    /// The rest of the answer.
    pub async fn answer(mut self, method: &str) -> Answer {
        let (status, headers) = self.head().await;
        let mut answer = Answer { status, headers, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || status == 304 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk().await {
                    Some(chunk) if chunk.is_empty() => break,
                    Some(chunk) => answer.body.extend(chunk),
                    None => return answer,
                }
            }
            let mut rest = Vec::new();
            while let Some(line) = self.until(b"\r\n").await.filter(|l| l != b"\r\n") {
                rest.push(String::from_utf8(line).expect("ASCII"));
            }
            answer.trailers = fields(rest.iter().map(|l| l.trim_end()));
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().expect("a length");
            answer.body = self.exactly(length).await.expect("the whole body");
        }
        answer
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
    lines.filter_map(pair).collect()
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

/// A stream as a browser reads it.
pub struct Events {
    wire: Wire,
    text: String,
    /// The first line.
    pub first: Option<String>,
}

impl Events {
    /// Opens a stream; the answer's head must be a good one.
    pub async fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Events {
        let mut wire = Wire::send(address, "GET", target, headers).await;
        let (status, head) = wire.head().await;
        assert_eq!(status, 200, "{target}");
        let has = |name: &str, value: &str| head.iter().any(|(n, v)| n == name && v == value);
        assert!(has("content-type", "text/event-stream"), "{head:?}");
        assert!(has("cache-control", "no-store") && has("x-accel-buffering", "no"), "{head:?}");
        assert!(!head.iter().any(|(n, _)| n == "content-encoding"), "{head:?}");
        Events { wire, text: String::new(), first: None }
    }

    /// The next event; `None` when the stream has ended. Comments and blocks without data are no events.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if self.first.is_none() {
                    self.first = block.lines().next().map(str::to_owned);
                }
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                if let Some(data) = field("data: ") {
                    return Some(Event { name: field("event: ").unwrap_or_default(), id: field("id: "), data });
                }
                continue;
            }
            match self.wire.chunk().await {
                Some(chunk) if chunk.is_empty() => return None,
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).expect("events are UTF-8")),
                None => return None,
            }
        }
    }

    /// The next `count` events, each as `name id what`, where `what` is the title, id or status in the data.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut shown = Vec::new();
        for _ in 0..count {
            let Some(event) = self.next().await else {
                shown.push("(end)".to_owned());
                break;
            };
            shown.push(event.to_string());
        }
        shown
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let data: Value = serde_json::from_str(&self.data).expect("data is JSON");
        let short = |id: &str| id.trim_start_matches(['0', '-']).to_owned();
        let what = ["title", "action", "status", "id"].iter().find_map(|n| data[n].as_str()).map(short);
        write!(f, "{} {} {}", self.name, self.id.as_deref().unwrap_or("-"), what.unwrap_or_default())
    }
}
