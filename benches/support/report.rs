//! What was measured: a table to read, and JSON for `cargo xtask bench`.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::options::Options;

/// Prints what is measured, and appends it to the file asked for.
pub struct Report {
    size: u64,
    json: Option<std::path::PathBuf>,
}

impl Report {
    /// A report of what is measured at `size`.
    pub fn new(options: &Options, question: &str, size: u64) -> Report {
        println!("{question}\nsize {size}, seed {}", options.seed);
        Report { size, json: options.json.clone() }
    }

    /// Tells the numbers measured of `what`.
    pub fn tell(&self, what: &str, numbers: &[(&str, f64)]) -> anyhow::Result<()> {
        let mut row = Map::from_iter([("what".to_owned(), json!(what)), ("size".to_owned(), json!(self.size))]);
        let mut line = format!("{what:<34}");
        for (name, number) in numbers {
            let digits = if number.fract() == 0.0 || number.abs() >= 1000.0 { 0 } else { 2 };
            line.push_str(&format!("  {name} {number:.digits$}"));
            row.insert((*name).to_owned(), json!(number));
        }
        println!("{line}");
        if let Some(path) = &self.json {
            let file = OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.with_context(|| format!("could not open {}", path.display()))?, "{}", Value::Object(row))?;
        }
        Ok(())
    }

    /// Tells how long something took each time.
    pub fn tell_times(&self, what: &str, times: &mut Times) -> anyhow::Result<()> {
        let ms = |share: f64| times.quantile(share).as_secs_f64() * 1000.0;
        let numbers = [("count", times.0.len() as f64), ("p50_ms", ms(0.5)), ("p99_ms", ms(0.99)), ("max_ms", ms(1.0))];
        self.tell(what, &numbers)
    }
}

/// How long something took each time.
#[derive(Clone, Debug, Default)]
pub struct Times(pub Vec<Duration>);

impl Times {
    /// The time that `share` of all took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }
}
