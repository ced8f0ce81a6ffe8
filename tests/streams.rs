//! Streams of the whole product: followers over generated histories have what the lists show, whatever connections they
//! lose; readers that take nothing, and changes that are large, cost a bounded amount of memory.

#[allow(dead_code, reason = "several test targets share it, and none uses all")]
#[path = "oracle/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "several test targets share it, and none uses all")]
#[path = "oracle/product.rs"]
mod product;
#[path = "oracle/follower.rs"]
mod follower;
#[allow(dead_code, reason = "several test targets share it, and none uses all")]
#[path = "support/process.rs"]
mod process;
#[allow(dead_code, reason = "several test targets share it, and none uses all")]
#[path = "support/stand_in.rs"]
mod stand_in;
#[path = "streams/memory.rs"]
mod memory;

use follower::{Followed, Follower, Place};
use oracle::compare::Product;
use oracle::generate::{self, Options};
use oracle::history::{RecordSpec, Step};
use product::{Given, InProcess};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use topics::event::Limits;

const FOLLOWED: &[Followed] = &[
    Followed { topic: "tasks", filters: "" },
    Followed { topic: "tasks", filters: "status=all" },
    Followed { topic: "tasks", filters: "due=today&tz=UTC" },
    Followed { topic: "tasks", filters: "due=overdue,tomorrow&tz=Asia/Tokyo" },
    Followed { topic: "tasks", filters: "due=week&tz=America/New_York&status=all" },
    Followed { topic: "tasks", filters: "due=future,none&tz=UTC" },
    Followed { topic: "tasks", filters: "recurring=true&priority=HIGH,LOW" },
    Followed { topic: "occurrences", filters: "state=ACTIVE" },
    Followed { topic: "reminders", filters: "" },
    Followed { topic: "reminders", filters: "status=PENDING" },
    Followed { topic: "audit", filters: "" },
    Followed { topic: "audit", filters: "action=UPDATED,REMINDER_CANCELLED&stale=false" },
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
}

/// One history, followed. Every third one keeps few events, so that places are lost.
fn follow(seed: u64) {
    let limits = Limits { max_event_bytes: 16_384 };
    let options = Options {
        strands: 6,
        http_only: false,
        restarts: true,
        kills: false,
        on_broker: false,
        limits: limits.clone(),
    };
    let history = generate::history(seed, &options);
    let replay = if seed.is_multiple_of(3) { 40 } else { 10_000 };
    let given =
        [("max_event_bytes".to_owned(), json!(limits.max_event_bytes)), ("stream.replay".to_owned(), json!(replay))];
    let mut product = InProcess::start(history.start, Given::from(given));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = reqwest::Client::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut followers: Vec<Follower> = FOLLOWED.iter().map(|followed| Follower::new(*followed)).collect();
    for (number, step) in history.steps.iter().enumerate() {
        match step {
            Step::Append(items) => {
                product.append(&items.iter().map(|item| item.record.clone()).collect::<Vec<RecordSpec>>());
            }
            Step::Advance(to) => product.advance(*to),
            Step::Restart | Step::Kill => product.restart(),
        }
        let place = Place { runtime: &runtime, client: &client, base: format!("http://{}", product.addr()) };
        for follower in &mut followers {
            if rng.random_bool(0.25) {
                follower.lose(&place, &mut rng);
            }
            if number % 3 == 2 || number + 1 == history.steps.len() {
                follower.catch_up(&place).unwrap_or_else(|wrong| panic!("seed {seed}, step {number}: {wrong}"));
            }
        }
    }
}

#[test]
fn followers_have_what_the_lists_show() {
    let first = number("TASKTIDE_SEED", 1);
    (first..first + number("TASKTIDE_SEEDS", 6)).for_each(follow);
}
