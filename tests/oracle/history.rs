//! Histories: what is appended to the log and when the clock moves, as plain data.
//!
//! A history is woven from several strands. Each strand has tasks and users of its own, so that many histories can run
//! in one process under one clock, and a strand that fails can be run alone.

use std::fmt;

use topics::Timestamp;

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSpec {
    /// Where to.
    pub partition: i32,
    /// Its key.
    pub key: Option<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

impl RecordSpec {
    /// A record without key and headers, as a line of NDJSON is.
    pub fn line(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        RecordSpec { partition, key: None, headers: Vec::new(), value: Some(value.into()) }
    }

    /// Whether `POST /v1/events` can make this record: the log's own interface takes any.
    pub fn fits_http(&self) -> bool {
        match &self.value {
            None => true,
            Some(value) => match self.headers.as_slice() {
                [] => !value.contains(&b'\n') && !value.iter().all(u8::is_ascii_whitespace),
                [(name, content)] => name == "content-type" && content.starts_with("application/cloudevents+json"),
                _ => false,
            },
        }
    }
}

/// A record of a strand.
#[derive(Clone, Debug)]
pub struct Item {
    /// Number of the strand.
    pub strand: usize,
    /// What is appended.
    pub record: RecordSpec,
}

/// One step; the system settles before the next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Records, appended at once.
    Append(Vec<Item>),
    /// The clock moves.
    Advance(Timestamp),
    /// The process stops in order and starts again on its data.
    Restart,
    /// The process is killed and starts again on its data.
    Kill,
}

/// A whole history.
#[derive(Clone, Debug)]
pub struct History {
    /// Where the clock starts.
    pub start: Timestamp,
    /// What happens.
    pub steps: Vec<Step>,
}

impl History {
    /// Numbers of the strands that still have a record.
    pub fn strands(&self) -> Vec<usize> {
        let mut found: Vec<usize> = self.items().map(|item| item.strand).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Every record.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.steps.iter().flat_map(|step| match step {
            Step::Append(items) => items.as_slice(),
            _ => &[],
        })
    }

    /// The history with only the records that `keep` accepts; steps that become empty go.
    pub fn with_items(&self, mut keep: impl FnMut(&Item) -> bool) -> History {
        let steps = self.steps.iter().filter_map(|step| match step {
            Step::Append(items) => {
                let kept: Vec<Item> = items.iter().filter(|item| keep(item)).cloned().collect();
                (!kept.is_empty()).then_some(Step::Append(kept))
            }
            other => Some(other.clone()),
        });
        History { start: self.start, steps: steps.collect() }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clock {}", self.start)?;
        for (number, step) in self.steps.iter().enumerate() {
            match step {
                Step::Advance(to) => writeln!(f, "{number:>3} clock {to}")?,
                Step::Restart => writeln!(f, "{number:>3} restart")?,
                Step::Kill => writeln!(f, "{number:>3} kill -9, start")?,
                Step::Append(items) => {
                    for item in items {
                        let record = &item.record;
                        let value = record.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
                        let shown = match &value {
                            Some(text) if text.len() > 3000 => format!("({} bytes)", text.len()),
                            Some(text) => text.clone(),
                            None => "(tombstone)".to_owned(),
                        };
                        writeln!(f, "{number:>3} p{} {:?} {shown}", record.partition, record.headers)?;
                    }
                }
            }
        }
        Ok(())
    }
}
