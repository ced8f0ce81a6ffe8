//! Starts that meet one another: two or three processes at once on one store, some of them killed in the midst of it,
//! some of their connections broken. Whoever comes too late waits, or says who was first; nobody ends with an error
//! that a second try would not have.
//!
//! `TASKTIDE_START_ROUNDS=200 cargo test --features real-parts --test outages starts` makes more of them.

use std::path::Path;
use std::time::Duration;

use components::postgres::{self, Server};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::product::until;
use crate::watched::Tasktide;

/// Rounds on each store; each starts two or three processes, and a further one where one was killed.
const ROUNDS: u64 = 40;
/// Longest time from the first start to a kill or a broken connection.
const AMIDST: u64 = 700;

fn rounds() -> u64 {
    std::env::var("TASKTIDE_START_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"))
}

/// What happens while processes start.
#[derive(Debug)]
struct Amidst {
    /// Milliseconds after the first start at which each of the others is started.
    others: Vec<u64>,
    /// Which one is killed, and when.
    kill: Option<(usize, u64)>,
    /// When all connections to the database are broken.
    breaks: Vec<u64>,
    /// Which one is a query process, if any is.
    query: Option<usize>,
}

impl Amidst {
    fn of(seed: u64) -> Amidst {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..=3);
        let query = rng.random_bool(0.4).then(|| rng.random_range(0..count));
        Amidst {
            others: (1..count)
                .map(|_| if rng.random_bool(0.6) { 0 } else { rng.random_range(0..AMIDST / 2) })
                .collect(),
            kill: rng.random_bool(0.4).then(|| (rng.random_range(0..count), rng.random_range(0..AMIDST))),
            breaks: (0..rng.random_range(0..3)).map(|_| rng.random_range(0..AMIDST)).collect(),
            query,
        }
    }

    fn is_query(&self, process: usize) -> bool {
        self.query == Some(process)
    }

    /// Starts everything, and does what is to be done meanwhile. `None` in the place of a process that was killed.
    async fn happens(&self, start: impl Fn(usize) -> Tasktide, break_all: impl Fn()) -> Vec<Option<Tasktide>> {
        let mut events: Vec<(u64, Event)> = vec![(0, Event::Start)];
        events.extend(self.others.iter().map(|at| (*at, Event::Start)));
        events.extend(self.breaks.iter().map(|at| (*at, Event::Break)));
        events.extend(self.kill.map(|(which, at)| (at, Event::Kill(which))));
        events.sort_by_key(|(at, _)| *at);
        let mut running: Vec<Option<Tasktide>> = Vec::new();
        let mut now = 0;
        for (at, event) in events {
            tokio::time::sleep(Duration::from_millis(at - now)).await;
            now = at;
            match event {
                Event::Start => running.push(Some(start(running.len()))),
                Event::Break => break_all(),
                Event::Kill(which) => {
                    if let Some(mut process) = running.get_mut(which).and_then(Option::take) {
                        process.kill();
                    }
                }
            }
        }
        running
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Start,
    Break,
    Kill(usize),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_database_one_writes_and_the_others_stand_by() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        tokio::task::spawn_blocking(|| Server::start(postgres::Options { fsync: false, ..Default::default() }));
    let server = server.await.unwrap().expect("a server");
    for seed in 0..rounds() {
        let amidst = Amidst::of(seed);
        let name = format!("starts_{seed}");
        let url = server.create_database(&name).unwrap();
        let settings = [("TASKTIDE_STORE__URL", url.as_str()), ("TASKTIDE_STORE__LEASE", "2s")];
        let started = dir.path().join(&name);
        std::fs::create_dir(&started).unwrap();
        let pipeline = || Tasktide::start(&started, &[], &settings);
        let start = |process: usize| match amidst.is_query(process) {
            true => Tasktide::command(&started.join("query.log"), &["query-api"], &settings),
            false => pipeline(),
        };
        let break_all = || {
            let all = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = '{name}' AND starts_with(application_name, 'tasktide')"
            );
            server.psql("postgres", &all).unwrap();
        };
        let mut running = amidst.happens(start, break_all).await;
        // There may be nobody left who writes.
        running.push(Some(pipeline()));
        let is_query = |process: usize| process + 1 < running.len() && amidst.is_query(process);
        let what = format!("round {seed}: one writes, the others stand by: {amidst:?}");
        let expected: Vec<&str> = {
            let left = (0..running.len()).filter(|process| running[*process].is_some());
            let queries = left.clone().filter(|process| is_query(*process)).count();
            let pipelines = left.count() - queries;
            let mut roles = vec!["replica"; queries];
            roles.extend(vec!["standby"; pipelines - 1]);
            roles.push("writer");
            roles
        };
        until(&what, async || {
            let mut roles = Vec::new();
            for process in running.iter_mut().flatten() {
                assert!(!process.has_ended(), "{what}: one ended");
                roles.push(process.ready_as().await.unwrap_or_default());
            }
            roles.sort();
            roles == expected
        })
        .await;
        drop(running);
        server.psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_directory_one_writes_and_the_others_say_who() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..rounds() {
        let amidst = Amidst::of(seed);
        let started = dir.path().join(seed.to_string());
        std::fs::create_dir(&started).unwrap();
        let data = started.join("data");
        let start = |process: usize| {
            let log = started.join(format!("{process}.log"));
            let command = if amidst.is_query(process) { "query-api" } else { "run" };
            Tasktide::command(&log, &[command, "--data-dir", data.to_str().unwrap()], &[])
        };
        let mut running = amidst.happens(start, || {}).await;
        let what = format!("round {seed}: one writes: {amidst:?}");
        let writers = async |running: &mut Vec<Option<Tasktide>>| {
            let mut writers = 0;
            for (number, place) in running.iter_mut().enumerate().filter(|(number, _)| !amidst.is_query(*number)) {
                let Some(process) = place else { continue };
                if process.has_ended() {
                    assert!(process.logged(&["in use by another process"]), "{what}: {number} ended");
                    *place = None;
                } else if process.ready_as().await.as_deref() == Some("writer") {
                    writers += 1;
                } else {
                    return None;
                }
            }
            Some(writers)
        };
        let mut found = 0;
        until(&what, async || {
            let all = writers(&mut running).await;
            found = all.unwrap_or_default();
            all.is_some()
        })
        .await;
        assert!(found <= 1, "{what}: {found} write");
        let last = (found == 0).then(|| start_last(&started, &data));
        if let Some(last) = &last {
            until(&what, async || last.ready_as().await.as_deref() == Some("writer")).await;
        }
        if let Some(query) = amidst.query.and_then(|query| running[query].as_mut()) {
            until(&what, async || {
                assert!(!query.has_ended(), "{what}: the query process ended");
                query.ready_as().await.as_deref() == Some("replica")
            })
            .await;
        }
    }
}

/// A pipeline for a directory that nobody holds any more.
fn start_last(started: &Path, data: &Path) -> Tasktide {
    Tasktide::command(&started.join("last.log"), &["run", "--data-dir", data.to_str().unwrap()], &[])
}
