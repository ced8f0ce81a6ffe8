//! Reading files of events into the log: `tasktide ingest`.
//!
//! A file holds an event a line (NDJSON), or one JSON value: an event, or an array of them. Lines are streamed, so a
//! file may be larger than memory.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use serde::de::IgnoredAny;
use topics::Timestamp;

use super::body::{Elements, elements, lines, record, without_mark};
use super::{Log, LogError};

/// Events of an append.
pub const EVENTS_A_BATCH: usize = 5000;
/// An append is closed once its events are this long.
const BYTES_A_BATCH: usize = 16 * 1024 * 1024;

/// Why a file could not be read into the log. What [`Ingested`] was told of by then is in the log.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The file.
    #[error("could not read the events")]
    Read(#[from] io::Error),
    /// The log.
    #[error("could not append the events")]
    Append(#[from] LogError),
}

/// What was appended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Events.
    pub events: u64,
    /// Bytes of the file that they take, for a progress bar.
    pub bytes: u64,
}

/// The events of a file in batches, each of which is one append, or the body of one NDJSON post.
pub struct Batches<R> {
    form: Form<R>,
}

enum Form<R> {
    Lines(R),
    Whole(std::vec::IntoIter<Bytes>),
}

/// A batch of events.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The events, each without line ends around it; those of a whole file may have them within.
    pub events: Vec<Bytes>,
    /// Bytes of the file that they take.
    pub bytes: u64,
}

impl Batch {
    /// The batch as an NDJSON body. Line ends within an event, which JSON allows only between its tokens, become spaces.
    pub fn to_ndjson(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes as usize + self.events.len());
        for event in &self.events {
            body.extend(event.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
            body.push(b'\n');
        }
        body
    }
}

impl<R: BufRead> Batches<R> {
    /// Looks at the beginning to find out what the file is.
    pub fn open(mut from: R) -> io::Result<Batches<io::Chain<io::Cursor<Vec<u8>>, R>>> {
        let mut head = Vec::new();
        while head.trim_ascii().is_empty() {
            if from.read_until(b'\n', &mut head)? == 0 {
                break;
            }
        }
        let head = Vec::from(without_mark(Bytes::from(head)));
        let line = head.trim_ascii();
        let is_event_a_line = !line.starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(line).is_ok();
        let mut chained = io::Cursor::new(head).chain(from);
        if is_event_a_line {
            return Ok(Batches { form: Form::Lines(chained) });
        }
        // An array, an event over several lines, or lines of which the first is bad: only the whole tells.
        let mut whole = Vec::new();
        chained.read_to_end(&mut whole)?;
        let whole = Bytes::from(whole);
        let events = if let Elements::All(elements) = elements(&whole, usize::MAX) {
            elements
        } else if serde_json::from_slice::<IgnoredAny>(&whole).is_ok() {
            vec![whole.slice_ref(whole.trim_ascii())]
        } else {
            lines(&whole).collect()
        };
        Ok(Batches { form: Form::Whole(events.into_iter()) })
    }

    /// The next batch; `None` at the end.
    pub fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.events.len() < EVENTS_A_BATCH && (batch.bytes as usize) < BYTES_A_BATCH {
            match &mut self.form {
                Form::Lines(from) => {
                    let mut line = Vec::new();
                    let read = from.read_until(b'\n', &mut line)?;
                    if read == 0 {
                        break;
                    }
                    batch.bytes += read as u64;
                    batch.events.extend(lines(&Bytes::from(line)));
                }
                Form::Whole(events) => {
                    let Some(event) = events.next() else { break };
                    batch.bytes += event.len() as u64 + 1;
                    batch.events.push(event);
                }
            }
        }
        Ok((batch.bytes > 0).then_some(batch))
    }
}

/// Appends every event of `from` to `topic`, with record times by the clock given, and tells of each append.
pub async fn ingest(
    log: &Log,
    topic: &str,
    from: impl BufRead,
    now: impl Fn() -> Timestamp,
    mut progress: impl FnMut(Ingested),
) -> Result<Ingested, IngestError> {
    let mut batches = Batches::open(from)?;
    let mut done = Ingested::default();
    while let Some(batch) = batches.next_batch()? {
        let at = now();
        let count = batch.events.len() as u64;
        log.append(topic, batch.events.into_iter().map(|event| record(event, None, at)).collect()).await?;
        done = Ingested { events: done.events + count, bytes: done.bytes + batch.bytes };
        progress(done);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, events: &[&str]) {
        let mut batches = Batches::open(file.as_bytes()).unwrap();
        let mut got = Vec::new();
        let mut ndjson = Vec::new();
        while let Some(batch) = batches.next_batch().unwrap() {
            ndjson.extend(batch.to_ndjson());
            got.extend(batch.events);
        }
        assert_eq!(got, events, "{file}");
        assert_eq!(ndjson.iter().filter(|byte| **byte == b'\n').count(), events.len());
    }

    #[test]
    fn a_file_is_lines_or_one_value() {
        check("", &[]);
        check("\n \n", &[]);
        check("{\"a\":1}\n", &["{\"a\":1}"]);
        check("{\"a\":1}\r\n\r\n{\"b\":2}", &["{\"a\":1}", "{\"b\":2}"]);
        check("{\"a\":1}\nnope\n{\"b\":2}\n", &["{\"a\":1}", "nope", "{\"b\":2}"]);
        check("\n{\n  \"a\": 1\n}\n", &["{\n  \"a\": 1\n}"]);
        check("[{\"a\":1},\n {\"b\":2}]", &["{\"a\":1}", "{\"b\":2}"]);
        check("[]", &[]);
        check("nope\n{\"a\":1}\n", &["nope", "{\"a\":1}"]);
        check("[1,\n{\"a\":1}\n", &["[1,", "{\"a\":1}"]);
    }

    #[test]
    fn batches_are_bounded() {
        let file = "{\"n\":1}\n".repeat(EVENTS_A_BATCH * 2 + 1);
        let mut batches = Batches::open(file.as_bytes()).unwrap();
        let mut sizes = Vec::new();
        while let Some(batch) = batches.next_batch().unwrap() {
            sizes.push(batch.events.len());
        }
        assert_eq!(sizes, [EVENTS_A_BATCH, EVENTS_A_BATCH, 1]);
    }
}
