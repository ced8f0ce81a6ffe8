//! What tasks and users say: values that are usual, values at the edges, and values that cannot be read.

use chrono::{Duration, NaiveDateTime};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};
use topics::Timestamp;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Days before clocks change, months end, and a day in between.
const STARTS: [&str; 6] = [
    "2026-03-27T07:00:00Z",
    "2026-10-23T09:30:00Z",
    "2026-03-06T14:00:00Z",
    "2026-01-29T23:00:00Z",
    "2026-04-03T12:00:00Z",
    "2028-02-27T08:15:00Z",
];
const ZONES: [&str; 7] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Auckland",
    "UTC",
    "America/Santiago",
];

fn pick<'a, T: ?Sized>(rng: &mut StdRng, words: &[&'a T]) -> &'a T {
    words.choose(rng).copied().expect("not empty")
}

/// Years after which the same dates fall on the same days of the week.
const LATER: i32 = 28;

/// Where the clock starts; `later` takes the same days of years to come.
pub(super) fn start(rng: &mut StdRng, later: bool) -> Timestamp {
    let mut start = pick(rng, &STARTS).to_owned();
    if later {
        let year: i32 = start[..4].parse().expect("a year");
        start.replace_range(..4, &(year + LATER).to_string());
    }
    start.parse().expect("an instant")
}

/// How far the clock moves.
pub(super) fn advance(rng: &mut StdRng) -> i64 {
    let longest = *[MINUTE_MS, HOUR_MS, HOUR_MS, 5 * HOUR_MS, DAY_MS, DAY_MS, 2 * DAY_MS, 9 * DAY_MS]
        .choose(rng)
        .expect("not empty");
    rng.random_range(1..=longest / 1000) * 1000
}

/// A new task.
pub(super) fn task(rng: &mut StdRng, now: Timestamp) -> Map<String, Value> {
    let mut fields = Map::from_iter([("title".to_owned(), title(rng)), ("completed".to_owned(), json!(false))]);
    for (chance, field) in [
        (0.8, "dueDate"),
        (0.4, "recurrenceRule"),
        (0.5, "timezone"),
        (0.5, "reminders"),
        (0.4, "priority"),
        (0.4, "tags"),
        (0.3, "description"),
        (0.1, "recurrenceMode"),
        (0.3, "project"),
    ] {
        if rng.random_bool(chance) {
            super::set(&mut fields, field, value(rng, field, now));
        }
    }
    if rng.random_bool(0.2) {
        fields.insert("createdAt".into(), json!(now.plus_millis(-DAY_MS)));
        fields.insert("updatedAt".into(), json!(now.plus_millis(-HOUR_MS)));
    }
    fields
}

/// A field and a value for it.
pub(super) fn field(rng: &mut StdRng, now: Timestamp) -> (&'static str, Value) {
    let field = pick(
        rng,
        &[
            "title",
            "dueDate",
            "dueDate",
            "dueDate",
            "recurrenceRule",
            "recurrenceRule",
            "timezone",
            "reminders",
            "reminders",
            "priority",
            "tags",
            "description",
            "recurrenceMode",
            "project",
        ],
    );
    let value = if field != "title" && rng.random_bool(0.15) { Value::Null } else { value(rng, field, now) };
    (field, value)
}

fn value(rng: &mut StdRng, field: &str, now: Timestamp) -> Value {
    match field {
        "title" => title(rng),
        "dueDate" => due(rng, now),
        "recurrenceRule" => rule(rng, now),
        "timezone" => json!(if rng.random_bool(0.05) { "Mars/Olympus" } else { pick(rng, &ZONES) }),
        "reminders" => reminders(rng, now),
        "priority" => json!(pick(rng, &["HIGH", "medium", "Low", "NONE", "urgent"])),
        "tags" => {
            [json!(["home", " Home ", "work"]), json!([]), json!(["a", ""]), json!("x"), json!(["Straße", "STRASSE"])]
                .choose(rng)
                .cloned()
                .expect("not empty")
        }
        "description" => [json!("some text"), json!(""), json!(17)].choose(rng).cloned().expect("not empty"),
        "recurrenceMode" => json!(pick(rng, &["due", "completion", "completion", "whenever"])),
        _ => [json!("garden"), json!({"a": [1, null], "b": "x"}), json!(9_007_199_254_740_993_u64)]
            .choose(rng)
            .cloned()
            .expect("not empty"),
    }
}

fn title(rng: &mut StdRng) -> Value {
    let title = pick(rng, &["water the plants", "Ölwechsel", "-04 Pay @Internet", "", "<b>&</b>"]);
    json!(format!("{title} {}", rng.random_range(0..100)))
}

fn wall(now: Timestamp, minutes: i64) -> NaiveDateTime {
    now.to_utc().naive_utc() + Duration::minutes(minutes)
}

pub(super) fn due(rng: &mut StdRng, now: Timestamp) -> Value {
    if rng.random_bool(0.04) {
        return json!(pick(rng, &["tomorrow", "2026-02-30", "2026-04-01T9:00"]));
    }
    let minutes = match rng.random_range(0..4) {
        0 => rng.random_range(-600..600),
        1 => 5 * rng.random_range(0..30),
        _ => 30 * rng.random_range(-48..200),
    };
    let at = wall(now, minutes);
    json!(match rng.random_range(0..8) {
        0..3 => at.format("%Y-%m-%d").to_string(),
        3 => at.format("%Y-%m-%dT%H:%M").to_string(),
        // The hour that clock changes take away or give twice.
        4 => at.format("%Y-%m-%dT02:30:00").to_string(),
        5 => at.format("%Y-%m-%dT%H:%M:00+02:00").to_string(),
        _ => at.format("%Y-%m-%dT%H:%M:00Z").to_string(),
    })
}

fn rule(rng: &mut StdRng, now: Timestamp) -> Value {
    let day = |days: i64| wall(now, days * 24 * 60).format("%Y%m%d").to_string();
    json!(match rng.random_range(0..26) {
        0..4 => "FREQ=DAILY".to_owned(),
        4 | 5 => "FREQ=WEEKLY;BYDAY=MO,WE,FR".to_owned(),
        6 | 7 => "RRULE:FREQ=DAILY;INTERVAL=2".to_owned(),
        8 | 9 => format!("FREQ=DAILY;COUNT={}", rng.random_range(1..5)),
        10 => format!("FREQ=DAILY;UNTIL={}", day(2)),
        11 => format!("FREQ=DAILY;UNTIL={}T120000Z", day(2)),
        12 => "FREQ=WEEKLY".to_owned(),
        13 => "FREQ=MONTHLY".to_owned(),
        14 => "FREQ=MONTHLY;BYMONTHDAY=31".to_owned(),
        15 => "FREQ=HOURLY;INTERVAL=6".to_owned(),
        16 => "FREQ=MONTHLY;BYMONTHDAY=28,29,30,31;BYSETPOS=-1".to_owned(),
        17 => format!("DTSTART;TZID=Europe/Berlin:{}T090000\nRRULE:FREQ=DAILY", day(-1)),
        18 => format!("DTSTART:{}T083000Z\nRRULE:FREQ=WEEKLY;COUNT=5", day(-8)),
        19 => format!("DTSTART;VALUE=DATE:{}\nRRULE:FREQ=DAILY;INTERVAL=3", day(0)),
        20 => format!("DTSTART:{}T023000\nRRULE:FREQ=DAILY\nEXDATE;VALUE=DATE:{}", day(0), day(2)),
        21 => format!("RRULE:FREQ=WEEKLY;BYDAY=SA,SU\nRDATE;VALUE=DATE:{}", day(3)),
        22 => "FREQ=YEARLY".to_owned(),
        23 => "FREQ=SECONDLY".to_owned(),
        24 => "every other day".to_owned(),
        _ => "FREQ=DAILY;COUNT=0".to_owned(),
    })
}

fn reminders(rng: &mut StdRng, now: Timestamp) -> Value {
    let soon = wall(now, rng.random_range(-100..3000));
    let entry = |rng: &mut StdRng| match rng.random_range(0..16) {
        0 | 1 => json!("PT1H"),
        2 => json!("-PT60M"),
        3 => json!("PT0S"),
        4 => json!("P1D"),
        5 => json!("PT24H"),
        6 => json!("+PT10M"),
        7 => json!("P1WT1H"),
        8 => json!({"offset": "PT2H", "channels": ["email", "webhook"]}),
        9 => json!({"offset": "PT30M", "channels": ["pager", "in-app"]}),
        10 => json!({"offset": "PT45M", "channels": []}),
        11 => json!({"at": soon.format("%Y-%m-%dT%H:%M:00Z").to_string()}),
        12 => json!({"at": soon.format("%Y-%m-%dT%H:%M").to_string()}),
        13 => json!("P1M"),
        14 => json!({"at": "someday"}),
        _ => json!("PT15M"),
    };
    Value::Array((0..rng.random_range(0..4)).map(|_| entry(rng)).collect())
}

/// What a user sets.
pub(super) fn user(rng: &mut StdRng) -> Map<String, Value> {
    let mut data = Map::new();
    if rng.random_bool(0.6) {
        let zone = if rng.random_bool(0.1) { json!("Nowhere") } else { json!(pick(rng, &ZONES)) };
        data.insert("timezone".into(), zone);
    }
    if rng.random_bool(0.4) {
        let offsets = [json!(["PT2H"]), json!([]), json!(["P1D", "PT10M"]), json!(["soon", "PT1H"]), Value::Null]
            .choose(rng)
            .cloned();
        data.insert("reminderOffsets".into(), offsets.expect("not empty"));
    }
    if rng.random_bool(0.3) {
        let channels = [json!(["email"]), json!(["in-app", "webhook"]), json!([]), Value::Null].choose(rng).cloned();
        data.insert("channels".into(), channels.expect("not empty"));
    }
    if rng.random_bool(0.2) {
        data.insert("email".into(), json!("someone@example.org"));
    }
    data
}
