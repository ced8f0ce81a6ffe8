//! Generated histories through the whole product, held row by row against plain code (`oracle/`).
//!
//! `TASKTIDE_SEEDS=1000 cargo test --test histories` runs that many strands; `TASKTIDE_SEED=17` begins at another seed.
//! `TASKTIDE_SURVEY=1` prints every kind of difference instead. A failure prints the seed, the smallest history found that still differs, and the rows.

#[allow(dead_code, reason = "two test targets share it, and neither uses all")]
#[path = "oracle/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "two test targets share it, and neither uses all")]
#[path = "oracle/product.rs"]
mod product;
#[allow(dead_code, reason = "the cases of bug reports use it")]
#[path = "support/stand_in.rs"]
mod stand_in;
#[path = "oracle/tests.rs"]
mod tests;

use oracle::compare::{report, run, shrink};
use oracle::generate::{self, Options};
use oracle::history::History;
use oracle::interleave;
use product::{Given, InProcess, Program};
use serde_json::json;
use topics::event::Limits;

/// Small, so that a dead letter can be too large without being large.
const EVENT_BYTES_MAX: usize = 16_384;
/// Strands that share a process and its clock.
const STRANDS: usize = 20;
const SHRINK_TRIES_MAX: usize = 150;

fn limits() -> Limits {
    Limits { max_event_bytes: EVENT_BYTES_MAX }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}, not a number")))
}

fn in_process(history: &History) -> InProcess {
    InProcess::start(history.start, Given::from([("max_event_bytes".to_owned(), json!(EVENT_BYTES_MAX))]))
}

/// Every fourth step is compared, so that what is undone later is seen as well.
fn now_and_then(step: usize) -> bool {
    step % 4 == 3
}

#[test]
fn views_are_what_the_events_come_to() {
    if std::env::var_os("TASKTIDE_SURVEY").is_some() {
        return survey();
    }
    // Variables with the product's prefix are settings to it; ours are not.
    let strands = number("TASKTIDE_SEEDS", 40);
    let first = number("TASKTIDE_SEED", 1);
    let options = |strands| Options {
        strands,
        http_only: false,
        restarts: true,
        kills: false,
        on_broker: false,
        limits: limits(),
    };
    let mut left = strands as usize;
    for seed in first.. {
        if left == 0 {
            break;
        }
        let history = generate::history(seed, &options(STRANDS.min(left)));
        left = left.saturating_sub(STRANDS);
        let mut product = in_process(&history);
        let Some((step, differences)) = run(&history, &limits(), &mut product, now_and_then) else {
            let found = product.verify();
            assert!(found.is_empty(), "seed {seed}, verify:\n{}", found.join("\n"));
            continue;
        };
        let shown = report(&differences);
        drop(product);
        let kind = differences[0].kind();
        let until_then = History { start: history.start, steps: history.steps[..=step].to_vec() };
        let smallest = shrink(&until_then, &limits(), SHRINK_TRIES_MAX, &mut |candidate| {
            let found = run(candidate, &limits(), &mut in_process(candidate), |_| false);
            found.is_some_and(|(_, differences)| differences.iter().any(|difference| difference.kind() == kind))
        });
        let again = run(&smallest, &limits(), &mut in_process(&smallest), |_| false);
        let least = again.map_or_else(|| "(only in between)".to_owned(), |(_, differences)| report(&differences));
        panic!("seed {seed}, after step {step}:\n{shown}\nsmallest history that differs:\n{smallest}\n{least}");
    }
}

/// Orders of reading that are tried for each history.
const ORDERS: u64 = 4;

#[test]
fn every_interleaving_comes_to_the_same() {
    let strands = number("TASKTIDE_SEEDS", 200);
    let first = number("TASKTIDE_SEED", 1);
    let options = Options {
        strands: STRANDS,
        http_only: false,
        restarts: false,
        kills: false,
        on_broker: false,
        limits: limits(),
    };
    let mut failed = Vec::new();
    for seed in first..first + strands.div_ceil(STRANDS as u64) {
        let history = generate::history(seed, &options);
        let orders = disagreement(&history, seed, false);
        let with_oracle = orders.is_none();
        if let Some(lines) = orders.or_else(|| disagreement(&history, seed, true)) {
            let smallest = shrink(&history, &limits(), SHRINK_TRIES_MAX, &mut |candidate| {
                disagreement(candidate, seed, with_oracle).is_some()
            });
            let least = disagreement(&smallest, seed, with_oracle).unwrap_or(lines);
            failed.push(format!("seed {seed}\n{smallest}\n{}", least.join("\n")));
            if failed.len() == number("TASKTIDE_FAULTS", 1) as usize {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// What the orders of reading do not agree on, or what they come to other than the oracle does.
fn disagreement(history: &History, seed: u64, with_oracle: bool) -> Option<Vec<String>> {
    let records = interleave::records(history, &limits(), !seed.is_multiple_of(3));
    let out = interleave::LeftOut::of(&records, &limits());
    let first = interleave::rows(history, &records, &limits());
    let lines = if with_oracle {
        interleave::differences(&oracle::Oracle::rows_of(&records, &limits()), &first, true, &out)
    } else {
        let others = (0..ORDERS).map(|order| interleave::shuffled(&records, order));
        let others = others.map(|records| interleave::rows(history, &records, &limits()));
        others.flat_map(|other| interleave::differences(&first, &other, false, &out)).collect()
    };
    (!lines.is_empty()).then_some(lines)
}

#[test]
fn a_kill_at_any_moment_changes_nothing() {
    let runs = number("TASKTIDE_KILL_SEEDS", 1);
    for seed in 1..=runs {
        let options =
            Options { strands: 6, http_only: true, restarts: true, kills: true, on_broker: false, limits: limits() };
        let history = generate::history(1_000_000 + seed, &options);
        let bytes = EVENT_BYTES_MAX.to_string();
        let mut product = Program::start(history.start, &[("TASKTIDE_MAX_EVENT_BYTES", &bytes)]);
        if let Some((step, differences)) = run(&history, &limits(), &mut product, now_and_then) {
            panic!("kill seed {seed}, after step {step}:\n{}\n{history}", report(&differences));
        }
    }
}

/// Every kind of difference, each with a small history.
fn survey() {
    let mut seen = std::collections::BTreeMap::new();
    let first = number("TASKTIDE_SEED", 1);
    for seed in first..first + number("TASKTIDE_SEEDS", 5) {
        let options = Options {
            strands: STRANDS,
            http_only: false,
            restarts: true,
            kills: false,
            on_broker: false,
            limits: limits(),
        };
        let history = generate::history(seed, &options);
        let mut product = in_process(&history);
        let Some((_, differences)) = run(&history, &limits(), &mut product, |_| false) else { continue };
        drop(product);
        for difference in &differences {
            let count = seen.entry(difference.kind()).or_insert(0);
            *count += 1;
            if *count > 1 || difference.view == oracle::View::Audit {
                continue;
            }
            let kind = difference.kind();
            let smallest = shrink(&history, &limits(), 100, &mut |candidate| {
                let found = run(candidate, &limits(), &mut in_process(candidate), |_| false);
                found.is_some_and(|(_, differences)| differences.iter().any(|difference| difference.kind() == kind))
            });
            let again = run(&smallest, &limits(), &mut in_process(&smallest), |_| false);
            println!("=== {kind:?} seed {seed}\n{smallest}\n{}", again.map_or_else(String::new, |(_, d)| report(&d)));
        }
    }
    println!("{seen:#?}");
}
