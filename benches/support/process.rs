//! What this process takes: processor time by thread, memory, bytes written; read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// What the process has taken so far.
#[derive(Clone, Debug)]
pub struct Taken {
    at: Instant,
    /// Processor time by thread number, with the thread's name.
    threads: BTreeMap<u32, (String, Duration)>,
    cpu: Duration,
    written: u64,
}

/// What it took between two moments.
#[derive(Clone, Debug)]
pub struct Spent {
    /// Real time.
    pub time: Duration,
    /// Processor time of all threads, ended ones too.
    pub cpu: Duration,
    /// Processor time by thread name with the number of such threads, most first.
    pub threads: Vec<(String, usize, Duration)>,
    /// Bytes sent to the disk.
    pub written: u64,
}

impl Taken {
    /// Until now.
    pub fn now() -> Taken {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let nanos = text("schedstat").split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
            threads.insert(number, (text("comm").trim().to_owned(), Duration::from_nanos(nanos)));
        }
        Taken { at: Instant::now(), threads, cpu: cpu(), written: field("/proc/self/io", "write_bytes") }
    }

    /// What was taken since `before`.
    pub fn since(&self, before: &Taken) -> Spent {
        let mut by_name: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
        for (number, (name, cpu)) in &self.threads {
            let earlier = before.threads.get(number).map_or(Duration::ZERO, |(_, cpu)| *cpu);
            let entry = by_name.entry(name).or_default();
            entry.0 += 1;
            entry.1 += cpu.saturating_sub(earlier);
        }
        let mut threads: Vec<_> =
            by_name.into_iter().map(|(name, (count, cpu))| (name.to_owned(), count, cpu)).collect();
        threads.sort_by_key(|(_, _, cpu)| std::cmp::Reverse(*cpu));
        Spent {
            time: self.at - before.at,
            cpu: self.cpu.saturating_sub(before.cpu),
            threads,
            written: self.written - before.written,
        }
    }
}

/// Processor time of all threads so far; in steps of 10 ms.
pub fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Counted from after the name, which may hold anything: user and system time are the 12th and 13th.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Memory that is in use now, in bytes.
pub fn memory() -> u64 {
    1024 * field("/proc/self/status", "VmRSS")
}

/// The most memory that was in use, in bytes.
pub fn memory_peak() -> u64 {
    1024 * field("/proc/self/status", "VmHWM")
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
