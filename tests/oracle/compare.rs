//! Product against oracle: row by row after chosen steps, and the smallest history that still differs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use topics::Timestamp;
use topics::event::Limits;

use super::history::{History, Item, RecordSpec, Step};
use super::model::is_open;
use super::{Oracle, View};

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

/// A question over HTTP.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

/// Events of a stream as (event, id, data).
pub type Events = Vec<(String, Option<String>, Value)>;

/// What is held against the oracle. Every call returns once the system has settled.
pub trait Product {
    /// Appends records, at once where the interface can.
    fn append(&mut self, records: &[RecordSpec]);
    /// Appends records and is killed at once; settles after the start.
    fn append_and_kill(&mut self, records: &[RecordSpec]) {
        self.append(records);
        self.kill();
    }
    /// Appends the records of a body as `POST /v1/events` does; gives the status.
    fn post(&mut self, content_type: &str, body: Vec<u8>) -> u16;
    /// As [`Product::post`], but returns before the actions of it are through.
    fn post_only(&mut self, content_type: &str, body: Vec<u8>) -> u16 {
        self.post(content_type, body)
    }
    /// Moves the clock.
    fn advance(&mut self, to: Timestamp);
    /// Stops in order and starts again.
    fn restart(&mut self);
    /// Is killed and starts again.
    fn kill(&mut self);
    /// Stops in order, loses everything but its log, and starts again.
    fn rebuild(&mut self) {}
    /// Every row of a view, in the order shown.
    fn rows(&mut self, view: View) -> Vec<Value>;
    /// Any other question; `None` where there is no HTTP.
    fn ask(&mut self, _ask: &Ask<'_>) -> Option<Answer> {
        None
    }
    /// A plain question; `None` where there is no HTTP.
    fn get(&mut self, path: &str) -> Option<Answer> {
        self.ask(&Ask { method: "GET", path, headers: Vec::new(), body: None })
    }
    /// Follows a stream from now on.
    fn listen(&mut self, _path: &str) {}
    /// What the stream told until now, waiting for `count` events at most for as long as a test may; `None` where there
    /// is no stream.
    fn told(&mut self, _count: usize) -> Option<Events> {
        None
    }
    /// Method and path of each call that the stand-in for another service got; `None` where there is none.
    fn calls(&mut self) -> Option<Vec<String>> {
        None
    }
    /// The exit code of `tasktide verify` on what is stored; `None` where nothing is.
    fn verify_exit(&mut self) -> Option<i32> {
        None
    }
    /// A counter over all lives of the process, by its name with labels; `None` where there are none.
    fn counter(&mut self, _name: &str) -> Option<f64> {
        None
    }
    /// What else must hold of the product by itself; a sentence for each thing that does not.
    fn inconsistencies(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// A row that is not as the oracle says.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Where.
    pub view: View,
    /// Which row.
    pub key: String,
    /// What, one line each.
    pub lines: Vec<String>,
}

impl Difference {
    /// What sort of difference it is: the view, and the field of its first line.
    pub fn kind(&self) -> (View, String) {
        let line = self.lines.first().map_or("", String::as_str);
        (self.view, line.split([':', ' ']).next().unwrap_or_default().to_owned())
    }
}

/// Runs a history against the product and compares when `when(step number)` says so, and at the end.
pub fn run(
    history: &History,
    limits: &Limits,
    product: &mut dyn Product,
    when: impl Fn(usize) -> bool,
) -> Option<(usize, Vec<Difference>)> {
    let mut oracle = Oracle::new(history.start, limits.clone());
    let last = history.steps.len().saturating_sub(1);
    for (number, step) in history.steps.iter().enumerate() {
        match step {
            Step::Append(items) => {
                let records: Vec<RecordSpec> = items.iter().map(|item| item.record.clone()).collect();
                match history.steps.get(number + 1) {
                    Some(Step::Kill) => product.append_and_kill(&records),
                    _ => product.append(&records),
                }
            }
            Step::Advance(to) => product.advance(*to),
            Step::Restart => product.restart(),
            Step::Kill => product.kill(),
        }
        oracle.step(step);
        if number == last || when(number) {
            let found = differences(&oracle, product);
            if !found.is_empty() {
                return Some((number, found));
            }
        }
    }
    None
}

/// Everything in which the product is not as the oracle.
pub fn differences(oracle: &Oracle, product: &mut dyn Product) -> Vec<Difference> {
    let mut all = Vec::new();
    for view in View::ALL {
        let found = product.rows(view);
        if view == View::Audit {
            all.extend(out_of_order(&found));
        }
        all.extend(differences_of(view, oracle.rows(view), found));
    }
    for (name, expected) in oracle.counters() {
        if let Some(found) = product.counter(&name).filter(|found| *found != expected as f64) {
            all.push(Difference {
                view: View::Audit,
                key: name.clone(),
                lines: vec![format!("{name}: expected {expected}, found {found}")],
            });
        }
    }
    for line in product.inconsistencies() {
        all.push(Difference { view: View::Audit, key: "itself".to_owned(), lines: vec![line] });
    }
    all
}

/// Compares the rows of one view.
pub fn differences_of(view: View, expected: Vec<Value>, found: Vec<Value>) -> Vec<Difference> {
    let (expected, found) = (normal(view, expected), normal(view, found));
    let mut all = Vec::new();
    let mut by_key: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in found {
        by_key.entry(view.key(&row)).or_default().push(row);
    }
    for row in expected {
        let key = view.key(&row);
        let lines = match by_key.remove(&key).as_deref() {
            None => vec![format!("missing; expected {row}")],
            Some([found]) => {
                let mut lines = Vec::new();
                match_value(view, "", &row, found, &mut lines);
                lines
            }
            Some(several) => vec![format!("shown {} times", several.len())],
        };
        if !lines.is_empty() {
            all.push(Difference { view, key, lines });
        }
    }
    for (key, rows) in by_key {
        all.push(Difference { view, key, lines: rows.iter().map(|row| format!("not expected: {row}")).collect() });
    }
    all
}

fn match_value(view: View, path: &str, expected: &Value, found: &Value, lines: &mut Vec<String>) {
    if is_open(expected) {
        return;
    }
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                match_value(view, &format!("{path}.{key}"), value, found.get(key).unwrap_or(&Value::Null), lines);
                // Of a body, what is null may be left out.
                let may_lack = is_open(value) || (view == View::Actions && path.starts_with(".body"));
                if !found.contains_key(key) && !may_lack {
                    lines.push(format!("{path}.{key}: absent"));
                }
            }
            let more_allowed = matches!(view, View::Actions | View::DeadLetters) && path.is_empty();
            for (key, value) in found.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                let empty = path == ".metadata" && (value.is_null() || *value == false);
                if !more_allowed && !empty {
                    lines.push(format!("{path}.{key}: not expected: {value}"));
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (number, (expected, found)) in expected.iter().zip(found).enumerate() {
                match_value(view, &format!("{path}[{number}]"), expected, found, lines);
            }
        }
        _ if expected == found => {}
        _ => lines.push(format!("{path}: expected {expected}, found {found}")),
    }
}

/// Order that the contract leaves open is made the same on both sides.
fn normal(view: View, mut rows: Vec<Value>) -> Vec<Value> {
    rows.iter_mut().for_each(sort_warnings);
    if view == View::Audit {
        renumber(&mut rows);
    }
    rows
}

fn sort_warnings(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::Array(list) if key == "warnings" => list.sort_by_key(Value::to_string),
                    other => sort_warnings(other),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(sort_warnings),
        _ => {}
    }
}

/// Facts of one task that the clock causes at one instant come in no promised order.
fn renumber(rows: &mut [Value]) {
    let chain = |row: &Value| (row["taskId"].to_string(), row["userId"].to_string());
    let seq = |row: &Value| row["seq"].as_u64().unwrap_or_default();
    rows.sort_by_key(|row| (chain(row), seq(row)));
    let mut begin = 0;
    while begin < rows.len() {
        let mut end = begin + 1;
        if of_clock(&rows[begin]) {
            while end < rows.len()
                && of_clock(&rows[end])
                && chain(&rows[end]) == chain(&rows[begin])
                && rows[end]["timestamp"] == rows[begin]["timestamp"]
            {
                end += 1;
            }
        }
        let numbers: Vec<Value> = rows[begin..end].iter().map(|row| row["seq"].clone()).collect();
        rows[begin..end].sort_by_key(|row| row["metadata"]["eventId"].to_string());
        for (row, number) in rows[begin..end].iter_mut().zip(numbers) {
            row["seq"] = number;
        }
        begin = end;
    }
}

/// Whether an entry is a fact that no event caused.
fn of_clock(row: &Value) -> bool {
    match row["action"].as_str() {
        Some("REMINDER_SENT") => true,
        Some("REMINDER_EXPIRED") => row["metadata"]["eventId"]
            .as_str()
            .and_then(|id| id.rsplit('|').next())
            .is_some_and(|cause| Timestamp::parse_rfc3339(cause).is_some()),
        _ => false,
    }
}

/// `order=asc` is by timestamp, then seq, then id.
fn out_of_order(rows: &[Value]) -> Option<Difference> {
    let place = |row: &Value| {
        (row["timestamp"].as_str().map(str::to_owned), row["seq"].as_u64(), row["id"].as_str().map(str::to_owned))
    };
    let bad = rows.windows(2).find(|pair| place(&pair[0]) >= place(&pair[1]))?;
    let line = format!("{:?} is listed before {:?}", place(&bad[0]), place(&bad[1]));
    Some(Difference { view: View::Audit, key: "order".to_owned(), lines: vec![line] })
}

/// A report of differences, a few rows at most.
pub fn report(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences.iter().take(12) {
        let _ = writeln!(text, "{:?} {}", difference.view, difference.key);
        for line in difference.lines.iter().take(12) {
            let _ = writeln!(text, "    {}", line.chars().take(600).collect::<String>());
        }
    }
    if differences.len() > 12 {
        let _ = writeln!(text, "… and {} rows more", differences.len() - 12);
    }
    text
}

/// The smallest history found that still differs: fewer strands first, then fewer records, then fewer clock moves.
pub fn shrink(
    history: &History,
    limits: &Limits,
    tries_max: usize,
    differs: &mut dyn FnMut(&History) -> bool,
) -> History {
    let mut best = history.clone();
    let mut tries = 0;
    let mut attempt = |candidate: &History, tries: &mut usize| {
        *tries += 1;
        *tries <= tries_max && Oracle::is_defined(candidate, limits) && differs(candidate)
    };
    // One strand is nearly always enough.
    for strand in best.strands() {
        if best.strands().len() < 2 {
            break;
        }
        let alone = history.with_items(|item: &Item| item.strand == strand);
        if attempt(&alone, &mut tries) {
            best = alone;
            break;
        }
    }
    let mut chunk = best.items().count().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < best.items().count() {
            let mut number = 0;
            let smaller = best.with_items(|_| {
                number += 1;
                !(from..from + chunk).contains(&(number - 1))
            });
            if attempt(&smaller, &mut tries) {
                best = smaller;
            } else {
                from += chunk;
            }
        }
        chunk /= 2;
    }
    let mut at = best.steps.len();
    while at > 0 {
        at -= 1;
        if !matches!(best.steps[at], Step::Append(_)) {
            let mut smaller = best.clone();
            smaller.steps.remove(at);
            if attempt(&smaller, &mut tries) {
                best = smaller;
            }
        }
    }
    best
}
