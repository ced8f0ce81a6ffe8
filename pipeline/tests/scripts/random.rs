//! Generated histories: however they are cut into inputs, and wherever a restart falls, they come to the same.

use pipeline::{Config, Input};
use serde_json::{Map, Value, json};
use topics::record::SourceTopic;

use super::show;
use super::world::{World, task_id};

const TASKS: u64 = 6;
const VIEWS: [&str; 8] = ["tasks", "occurrences", "reminders", "actions", "audit 0", "audit 1", "audit ann", "open"];

/// A small generator (xorshift), so that a seed gives the same history for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// How a history is handed over.
#[derive(Clone, Copy, Debug)]
enum Handed {
    EachAlone,
    AllAtOnce,
    WithRestarts,
}

fn event(world: &mut World, random: &mut Random) -> (SourceTopic, i32, Value) {
    if random.below(20) == 0 {
        let data = json!({"userId": random.one_of(&["ann", "bob"]), "timezone": random.one_of(&["Europe/Berlin", "America/New_York"])});
        return (SourceTopic::UserEvents, 0, world.event("user.updated", data, Map::new()));
    }
    let task = random.below(TASKS);
    let kind = random.one_of(&["created", "updated", "updated", "updated", "completed", "deleted"]);
    let mut snapshot = json!({"title": format!("Task {task}"), "completed": kind == "completed"});
    let fields = snapshot.as_object_mut().expect("an object");
    match random.below(4) {
        0 => drop(fields.insert("dueDate".into(), json!("2026-03-05"))),
        1 => drop(fields.insert("dueDate".into(), json!(format!("2026-03-0{}T09:00:00Z", 2 + random.below(8))))),
        2 => drop(fields.insert("dueDate".into(), json!("2026-03-07T18:30"))),
        _ => {}
    }
    if random.below(2) == 0 {
        let rule = random.one_of(&[
            "FREQ=DAILY",
            "FREQ=WEEKLY;COUNT=3",
            "FREQ=DAILY;UNTIL=20260310",
            "FREQ=NEVER",
            "DTSTART:20260302T090000Z\nRRULE:FREQ=DAILY",
        ]);
        fields.insert("recurrenceRule".into(), json!(rule));
    }
    if random.below(3) == 0 {
        fields.insert("tags".into(), json!([random.one_of(&["home", "work"])]));
    }
    let mut data =
        json!({"taskId": task_id(task), "userId": random.one_of(&["ann", "ann", "ann", "bob"]), "task": snapshot});
    if random.below(3) == 0 {
        data["taskVersion"] = json!(1 + random.below(30));
    }
    let mut attributes = Map::new();
    if random.below(4) == 0 {
        attributes.insert("sequence".into(), json!(random.below(50).to_string()));
    }
    if random.below(10) == 0 {
        attributes.insert("id".into(), json!(format!("e{}", 1 + random.below(40))));
    }
    (SourceTopic::TaskEvents, (task % 3) as i32, world.event(&format!("task.{kind}"), data, attributes))
}

fn history(seed: u64, events: usize, handed: Handed) -> String {
    let mut world = World::new("2026-03-01T08:00:00Z", Config { commit_events_max: 7, ..Config::default() });
    world.send(Input::CaughtUp);
    let mut random = Random(seed);
    let mut restarts = Random(seed ^ 0x5555);
    for _ in 0..events {
        let (topic, partition, event) = event(&mut world, &mut random);
        world.append(topic, partition, event.to_string().into_bytes(), false);
        match handed {
            Handed::AllAtOnce => {}
            Handed::EachAlone => world.settle(),
            Handed::WithRestarts => {
                if restarts.below(9) == 0 {
                    world.settle();
                    world.restart();
                    world.send(Input::CaughtUp);
                    world.redeliver();
                }
            }
        }
    }
    world.settle();
    world.advance("2026-03-04T12:00:00Z");
    VIEWS
        .iter()
        .map(|view| {
            let words: Vec<String> = view.split(' ').map(str::to_owned).collect();
            format!("-- {view}\n{}", show::show(&world, &words))
        })
        .collect()
}

#[test]
fn a_history_comes_to_the_same_however_it_is_handed_over() {
    for seed in 1..=12u64 {
        let alone = history(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), 60, Handed::EachAlone);
        for handed in [Handed::AllAtOnce, Handed::WithRestarts] {
            let other = history(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), 60, handed);
            assert!(alone == other, "seed {seed}, {handed:?}\n{alone}\nagainst\n{other}");
        }
    }
}

#[test]
fn differential_agrees_with_the_tasks() {
    for seed in 1..=10u64 {
        let shown = history(seed.wrapping_mul(0xD1B5_4A32_D192_ED03), 80, Handed::AllAtOnce);
        let (tasks, open) = (section(&shown, "tasks"), section(&shown, "open"));
        let counted: usize = open
            .lines()
            .find_map(|line| line.strip_prefix("Open "))
            .map_or(0, |count| count.parse().expect("a number"));
        let expected = tasks.lines().filter(|line| line.contains(": v") && !line.contains("completed=true")).count();
        assert_eq!(counted, expected, "seed {seed}\n{shown}");
    }
}

fn section<'a>(shown: &'a str, name: &str) -> &'a str {
    let begin = shown.find(&format!("-- {name}\n")).expect("the section is there");
    let rest = &shown[begin + 3..];
    &rest[..rest.find("\n-- ").unwrap_or(rest.len())]
}
