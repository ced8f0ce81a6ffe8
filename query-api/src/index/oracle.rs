//! The oracle: plain code that filters and sorts a list of tasks by the words of the contract, compared with the index
//! on generated tasks and generated queries. It shares no code with the index or the filters but the types of `topics`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use chrono::NaiveDate;
use chrono_tz::Tz;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use topics::commit::{Commit, NextOffset, Restored, TaskRow, UserRow};
use topics::record::SourceTopic;
use topics::task::Priority;
use topics::{Due, Task, TaskId, Timestamp, UserId};
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use super::{Index, TaskPage};
use crate::filter::tests::task;
use crate::filter::{Context, Facet, TaskQuery};

const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "Asia/Bangkok", "America/Chicago", "Pacific/Kiritimati", "Pacific/Apia"];
const USERS: [&str; 4] = ["ann", "bob", "eve", "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11"];
const WORDS: [&str; 22] = [
    "milk",
    "Milk",
    "milkshake",
    "mil",
    "bread",
    "Bröt",
    "brotzeit",
    "Straße",
    "STRASSE",
    "café",
    "a",
    "ab",
    "abc",
    "16-3",
    "OR",
    "海风证券",
    "海风",
    "买iPhone",
    "iPhone15",
    "ขอบคุณ",
    "7",
    "2026",
];
const TAGS: [&str; 8] = ["home", "Home", "HOME", "work", "Straße", "strasse", "deep work", "海风"];
/// Years in which the clocks of the zones above change in the window, and one in which Samoa left out a day.
const NOWS: [&str; 3] = ["2026-03-29T00:30:00Z", "2011-12-29T22:00:00Z", "2026-10-25T12:00:00Z"];

// ---- tasks ----

struct World {
    random: StdRng,
    now: Timestamp,
    tasks: BTreeMap<TaskId, Task>,
    zones: BTreeMap<UserId, Tz>,
    index: Index,
    n: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let now = NOWS.choose(&mut random).unwrap().parse().unwrap();
        let index = Index::new(&[], Tz::Europe__Berlin);
        World { random, now, tasks: BTreeMap::new(), zones: BTreeMap::new(), index, n: 0 }
    }

    fn text(&mut self, most: usize) -> String {
        let count = self.random.random_range(0..=most);
        (0..count).map(|_| *WORDS.choose(&mut self.random).unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn around_now(&mut self) -> Timestamp {
        let day = 86_400_000;
        let days = self.random.random_range(-9..=9);
        let within = *[0, 0, 1, -1, 3_600_000, 43_200_000].choose(&mut self.random).unwrap();
        let midnight = self.now.millis() - self.now.millis().rem_euclid(day);
        Timestamp::from_millis(*[midnight, self.now.millis()].choose(&mut self.random).unwrap() + days * day + within)
    }

    fn due(&mut self) -> Option<Due> {
        let at = self.around_now();
        match self.random.random_range(0..4) {
            0 => None,
            1 => Some(Due::AllDay(at.local(Tz::UTC).date())),
            2 => Some(Due::Floating(at.local(Tz::UTC))),
            _ => Some(Due::Instant(at)),
        }
    }

    fn random_task(&mut self, n: u128) -> Task {
        let due = self.due();
        let (title, description) = (self.text(4), self.text(5));
        let (created, updated) = (self.around_now(), self.around_now());
        let random = &mut self.random;
        let mut tags: Vec<&str> = Vec::new();
        for _ in 0..random.random_range(0..4) {
            let tag = TAGS.choose(random).unwrap();
            if !tags.iter().any(|known| caseless(known) == caseless(tag)) {
                tags.push(tag);
            }
        }
        task(n, |task| {
            task.user_id = UserId::parse(USERS.choose(random).unwrap()).unwrap();
            task.due_date = due;
            task.timezone = random.random_bool(0.4).then(|| ZONES.choose(random).unwrap().parse().unwrap());
            task.title = title.into();
            task.description = random.random_bool(0.5).then(|| description.into());
            task.tags = tags.into_iter().map(Into::into).collect();
            task.completed = random.random_bool(0.3);
            task.priority = *Priority::ALL.choose(random).unwrap();
            // Few values, so that sort keys tie.
            task.created_at = if random.random_bool(0.5) { created } else { Timestamp::from_millis(0) };
            task.updated_at = if random.random_bool(0.5) { updated } else { Timestamp::from_millis(0) };
            task.recurrence_rule = random.random_bool(0.3).then(|| "FREQ=DAILY".into());
            task.series_id = random.random_bool(0.3).then(|| TaskId(Uuid::from_u128(random.random_range(1..4))));
        })
    }

    /// Commits `count` changes: new tasks, changed ones, deleted ones, users that move.
    fn change(&mut self, count: usize, most: u128) {
        let mut commit = Commit { n: self.n + 1, ..Commit::default() };
        let mut touched = BTreeSet::new();
        for _ in 0..count {
            if self.random.random_bool(0.05) {
                let id = UserId::parse(USERS.choose(&mut self.random).unwrap()).unwrap();
                let zone: Option<Tz> =
                    self.random.random_bool(0.7).then(|| ZONES.choose(&mut self.random).unwrap().parse().unwrap());
                match zone {
                    Some(zone) => self.zones.insert(id.clone(), zone),
                    None => self.zones.remove(&id),
                };
                commit.users.retain(|user| user.id != id);
                commit.users.push(UserRow { timezone: zone, ..UserRow::new(id) });
                continue;
            }
            let n = self.random.random_range(1..=most);
            let fresh = self.random_task(n);
            if !touched.insert(fresh.id) {
                continue;
            }
            let before = self.tasks.get(&fresh.id).cloned();
            let after = match &before {
                Some(_) if self.random.random_bool(0.2) => None,
                // Often only one thing changes.
                Some(old) if self.random.random_bool(0.6) => {
                    let mut task = old.clone();
                    match self.random.random_range(0..6) {
                        0 => task.completed = !task.completed,
                        1 => task.due_date = fresh.due_date,
                        2 => task.title = fresh.title,
                        3 => task.tags = fresh.tags,
                        4 => task.priority = fresh.priority,
                        _ => task.updated_at = fresh.updated_at,
                    }
                    Some(task)
                }
                _ => Some(fresh.clone()),
            };
            match &after {
                Some(task) => self.tasks.insert(fresh.id, task.clone()),
                None => self.tasks.remove(&fresh.id),
            };
            commit.tasks.push(row(fresh.id, before, after));
        }
        self.n += 1;
        self.index.apply(&commit);
    }

    /// The same state, loaded at once.
    fn reload(&mut self) {
        let restored = Restored {
            n: self.n,
            tasks: self.tasks.values().map(|task| row(task.id, None, Some(task.clone()))).collect(),
            users: self
                .zones
                .iter()
                .map(|(id, zone)| UserRow { timezone: Some(*zone), ..UserRow::new(id.clone()) })
                .collect(),
            ..Restored::default()
        };
        self.index = Index::new(&[], Tz::Europe__Berlin);
        self.index.load(&restored);
    }

    fn zone_of(&self, task: &Task) -> Tz {
        task.timezone.or_else(|| self.zones.get(&task.user_id).copied()).unwrap_or(Tz::Europe__Berlin)
    }
}

fn row(id: TaskId, before: Option<Task>, after: Option<Task>) -> TaskRow {
    TaskRow { id, before: before.map(Arc::new), after: after.map(Arc::new), memory: [].into() }
}

// ---- queries ----

/// A term of `q` as generated.
#[derive(Clone, Debug)]
struct Term {
    excluded: bool,
    phrase: bool,
    text: String,
}

/// A query as generated: the parameters, and what they mean.
#[derive(Debug, Default)]
struct Asked {
    params: Vec<(String, String)>,
    user: Option<UserId>,
    status: &'static str,
    priorities: Option<Vec<Priority>>,
    tags: Option<(Vec<&'static str>, &'static str)>,
    due: Option<Vec<&'static str>>,
    bounds: Vec<(&'static str, Timestamp)>,
    recurring: Option<bool>,
    series: Option<TaskId>,
    /// Groups joined by AND; more than one term in a group is an OR.
    q: Option<Vec<Vec<Term>>>,
    sort: Vec<&'static str>,
    facets: bool,
    zone: Tz,
}

const DUE_WORDS: [&str; 7] = ["none", "any", "overdue", "today", "tomorrow", "week", "future"];
const SORTS: [&str; 12] = [
    "due",
    "-due",
    "priority",
    "-priority",
    "created",
    "-created",
    "updated",
    "-updated",
    "title",
    "-title",
    "relevance",
    "-relevance",
];

fn ask(world: &mut World) -> Asked {
    let mut asked = Asked { status: "open", zone: Tz::Europe__Berlin, ..Asked::default() };
    let moment = |world: &mut World| world.around_now();
    let mut put = Vec::new();
    if world.random.random_bool(0.3) {
        let user = *USERS.choose(&mut world.random).unwrap_or(&"ann");
        put.push(("userId", user.to_owned()));
        asked.user = UserId::parse(user);
        asked.zone = asked.user.as_ref().and_then(|user| world.zones.get(user).copied()).unwrap_or(asked.zone);
    }
    if world.random.random_bool(0.5) {
        let zone = *ZONES.choose(&mut world.random).unwrap();
        put.push(("tz", zone.to_owned()));
        asked.zone = zone.parse().unwrap();
    }
    if world.random.random_bool(0.5) {
        asked.status = ["open", "completed", "all"].choose(&mut world.random).unwrap();
        put.push(("status", asked.status.to_owned()));
    }
    if world.random.random_bool(0.2) {
        let list: Vec<_> = Priority::ALL.into_iter().filter(|_| world.random.random_bool(0.5)).collect();
        if !list.is_empty() {
            put.push(("priority", list.iter().map(|p| p.name()).collect::<Vec<_>>().join(",")));
            asked.priorities = Some(list);
        }
    }
    if world.random.random_bool(0.2) {
        let count = world.random.random_range(0..4);
        let mut list: Vec<&'static str> = (0..count).map(|_| *TAGS.choose(&mut world.random).unwrap()).collect();
        if world.random.random_bool(0.1) {
            list.push("nowhere");
        }
        let mode = *["any", "all", "none"].choose(&mut world.random).unwrap();
        put.push(("tags", list.join(",")));
        put.push(("tagsMode", mode.to_owned()));
        asked.tags = Some((list, mode));
    }
    if world.random.random_bool(0.3) {
        let words: Vec<_> = DUE_WORDS.into_iter().filter(|_| world.random.random_bool(0.3)).collect();
        if !words.is_empty() {
            put.push(("due", words.join(",")));
            asked.due = Some(words);
        }
    }
    for name in ["dueAfter", "dueBefore", "createdAfter", "createdBefore", "updatedAfter", "updatedBefore"] {
        if world.random.random_bool(0.08) {
            let at = moment(world);
            if world.random.random_bool(0.5) {
                let date = at.local(Tz::UTC).date();
                put.push((name, date.to_string()));
                asked.bounds.push((name, midnight(date, asked.zone)));
            } else {
                put.push((name, at.to_string()));
                asked.bounds.push((name, at));
            }
        }
    }
    if world.random.random_bool(0.1) {
        let recurring = world.random.random_bool(0.5);
        put.push(("recurring", recurring.to_string()));
        asked.recurring = Some(recurring);
    }
    if world.random.random_bool(0.1) {
        let series = TaskId(Uuid::from_u128(world.random.random_range(1..6)));
        put.push(("seriesId", series.to_string()));
        asked.series = Some(series);
    }
    if world.random.random_bool(0.4) {
        let (text, groups) = random_q(world);
        put.push(("q", text));
        asked.q = Some(groups);
    }
    let searched = asked.q.is_some();
    asked.sort = vec!["due", "-created"];
    if world.random.random_bool(0.7) {
        let mut keys: Vec<&'static str> = Vec::new();
        for _ in 0..world.random.random_range(1..=3) {
            let key = *SORTS.choose(&mut world.random).unwrap();
            let bare = key.trim_start_matches('-');
            if !keys.iter().any(|known| known.trim_start_matches('-') == bare) && (searched || bare != "relevance") {
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            put.push(("sort", keys.join(",")));
            asked.sort = keys;
        }
    }
    if world.random.random_bool(0.3) {
        put.push(("counts", "true".to_owned()));
    }
    if world.random.random_bool(0.2) {
        put.push(("facets", "status,priority,tags,due".to_owned()));
        asked.facets = true;
    }
    put.push(("limit", world.random.random_range(1..=40).to_string()));
    asked.params = put.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    asked
}

fn random_q(world: &mut World) -> (String, Vec<Vec<Term>>) {
    let (mut written, mut groups) = (String::new(), Vec::new());
    for _ in 0..world.random.random_range(0..4) {
        let excluded = world.random.random_bool(0.2);
        let alternatives = if excluded || world.random.random_bool(0.7) { 1 } else { 2 };
        let mut group = Vec::new();
        for at in 0..alternatives {
            let phrase = world.random.random_bool(0.25);
            let mut text = WORDS.choose(&mut world.random).unwrap().to_string();
            if phrase {
                text = format!("{text} {}", WORDS.choose(&mut world.random).unwrap());
            } else if world.random.random_bool(0.4) {
                let cut = world.random.random_range(1..=text.chars().count());
                text = text.chars().take(cut).collect();
            }
            if text == "OR" || text == "O" {
                text = "or".to_owned();
            }
            let term = if phrase { format!("\"{text}\"") } else { text.clone() };
            let joint = if at > 0 { "OR " } else { "" };
            write!(written, "{joint}{}{term} ", if excluded { "-" } else { "" }).unwrap();
            group.push(Term { excluded, phrase, text });
        }
        groups.push(group);
    }
    (written, groups)
}

// ---- what the contract says ----

fn caseless(tag: &str) -> String {
    tag.to_lowercase().replace('ß', "ss")
}

fn midnight(date: NaiveDate, zone: Tz) -> Timestamp {
    Due::AllDay(date).to_instant(zone)
}

/// Whether the script of a character is one without spaces, as far as the words above go.
fn unspaced(c: char) -> bool {
    ('\u{e00}'..='\u{e7f}').contains(&c) || ('\u{4e00}'..='\u{9fff}').contains(&c)
}

/// The words of a text: folded, cut at signs, and where the script changes.
fn words(text: &str) -> Vec<Vec<String>> {
    let thai = |c: char| ('\u{e00}'..='\u{e7f}').contains(&c);
    let folded: String = text
        .nfkd()
        .flat_map(char::to_lowercase)
        .filter(|c| thai(*c) || !unicode_normalization::char::is_combining_mark(*c))
        .collect::<String>()
        .replace('ß', "ss");
    let runs = folded.split(|c: char| !c.is_alphanumeric() && !thai(c)).filter(|run| !run.is_empty());
    runs.map(|run| {
        let mut pieces: Vec<String> = Vec::new();
        for c in run.chars() {
            match pieces.last_mut() {
                Some(piece) if unspaced(piece.chars().next().unwrap()) == unspaced(c) => piece.push(c),
                _ => pieces.push(c.to_string()),
            }
        }
        pieces
    })
    .collect()
}

/// 2 for whole words, 1 for the start of one (or anywhere in a script without spaces), 0 for not found.
fn found(field: &str, wanted: &[Vec<String>], phrase: bool) -> i64 {
    let runs = words(field);
    let mut best = 0;
    for (at, run) in runs.iter().enumerate() {
        let line: String = runs[at..].iter().map(|run| run.concat()).collect::<Vec<_>>().join(" ");
        let wanted: String = wanted.iter().map(|run| run.concat()).collect::<Vec<_>>().join(" ");
        // Every place in this run at which the wanted text may begin.
        let mut place = 0;
        for piece in run {
            for (inside, c) in piece.char_indices() {
                let start = place + inside;
                if (inside > 0 && !unspaced(c)) || !line[start..].starts_with(&wanted) {
                    continue;
                }
                let (next, last) = (line[start + wanted.len()..].chars().next(), wanted.chars().next_back().unwrap());
                let ends = next.is_none_or(|next| next == ' ' || unspaced(next) != unspaced(last));
                let whole = inside == 0 && ends;
                best = best.max(match (phrase, whole) {
                    (true, _) => 2 * i64::from(ends || unspaced(last)),
                    (false, true) => 2,
                    (false, false) => 1,
                });
            }
            place += piece.len();
        }
    }
    best
}

/// The best class of each word of a term; `None` where one is not found.
fn classes(task: &Task, term: &Term) -> Vec<Option<i64>> {
    let wanted = words(&term.text);
    let needles: Vec<Vec<Vec<String>>> =
        if term.phrase { vec![wanted] } else { wanted.into_iter().map(|run| vec![run]).collect() };
    needles
        .iter()
        .map(|needle| {
            let title = found(&task.title, needle, term.phrase);
            let tags = task.tags.iter().map(|tag| found(tag, needle, term.phrase)).max().unwrap_or(0);
            let description = found(task.description.as_deref().unwrap_or(""), needle, term.phrase);
            [(title, 4), (tags, 2), (description, 0)]
                .into_iter()
                .filter(|(f, _)| *f > 0)
                .map(|(f, base)| f + base)
                .max()
        })
        .collect()
}

fn holds(term: &Term, task: &Task) -> bool {
    classes(task, term).iter().all(Option::is_some) != term.excluded
}

fn relevance(asked: &Asked, task: &Task) -> i64 {
    let terms = asked.q.iter().flatten().flatten().filter(|term| !term.excluded);
    terms.flat_map(|term| classes(task, term)).flatten().sum()
}

fn due_word(world: &World, task: &Task, word: &str, zone: Tz) -> bool {
    let Some(due) = task.due_date else { return word == "none" };
    let instant = due.to_instant(world.zone_of(task));
    let today = world.now.local(zone).date();
    let (date, past) = match due {
        Due::AllDay(date) => (date, date < today),
        _ => (instant.local(zone).date(), instant < world.now),
    };
    let ahead = (date - today).num_days();
    match word {
        "none" => false,
        "any" => true,
        "overdue" => !task.completed && past,
        "today" => ahead == 0,
        "tomorrow" => ahead == 1,
        "week" => (0..=6).contains(&ahead),
        "future" => ahead > 6,
        _ => unreachable!("all words are above"),
    }
}

/// The instant of a due as the asker sees it.
fn due_instant(world: &World, task: &Task, zone: Tz) -> Option<Timestamp> {
    task.due_date.map(|due| due.to_instant(if due.is_all_day() { zone } else { world.zone_of(task) }))
}

fn passes(world: &World, asked: &Asked, task: &Task) -> bool {
    let tags: BTreeSet<String> = task.tags.iter().map(|tag| caseless(tag)).collect();
    let has = |tag: &&str| tags.contains(&caseless(tag));
    let tags_ok = match &asked.tags {
        None => true,
        Some((list, "none")) if list.is_empty() => !tags.is_empty(),
        Some((list, _)) if list.is_empty() => tags.is_empty(),
        Some((list, "any")) => list.iter().any(has),
        Some((list, "all")) => list.iter().all(has),
        Some((list, _)) => !list.iter().any(has),
    };
    let bounds_ok = asked.bounds.iter().all(|(name, bound)| {
        let value = match &name[..3] {
            "due" => due_instant(world, task, asked.zone),
            "cre" => Some(task.created_at),
            _ => Some(task.updated_at),
        };
        value.is_some_and(|value| if name.ends_with("After") { *bound <= value } else { value < *bound })
    });
    asked.user.as_ref().is_none_or(|user| *user == task.user_id)
        && match asked.status {
            "open" => !task.completed,
            "completed" => task.completed,
            _ => true,
        }
        && asked.priorities.as_ref().is_none_or(|list| list.contains(&task.priority))
        && tags_ok
        && bounds_ok
        && asked.due.as_ref().is_none_or(|list| list.iter().any(|word| due_word(world, task, word, asked.zone)))
        && asked.recurring.is_none_or(|wanted| wanted == task.recurrence_rule.is_some())
        && asked.series.is_none_or(|series| task.series_id == Some(series))
        && asked.q.iter().flatten().all(|group| group.iter().any(|term| holds(term, task)))
}

fn title_key(title: &str) -> (String, &str) {
    let folded = title
        .nfkd()
        .flat_map(char::to_lowercase)
        .filter(|c| ('\u{e00}'..='\u{e7f}').contains(c) || !unicode_normalization::char::is_combining_mark(*c))
        .collect::<String>();
    (folded.replace('ß', "ss").nfc().collect(), title)
}

fn compare(world: &World, asked: &Asked, a: &Task, b: &Task) -> Ordering {
    let mut order = Ordering::Equal;
    for key in &asked.sort {
        let bare = key.trim_start_matches('-');
        let key_order = match bare {
            "due" => {
                let place = |task: &Task| {
                    let timed = task.due_date.is_some_and(|due| !due.is_all_day());
                    due_instant(world, task, asked.zone).map(|at| (at, timed))
                };
                match (place(a), place(b)) {
                    (None, None) => continue,
                    // Last in both directions.
                    (None, Some(_)) => return order.then(Ordering::Greater),
                    (Some(_), None) => return order.then(Ordering::Less),
                    (x, y) => x.cmp(&y),
                }
            }
            "priority" => a.priority.cmp(&b.priority),
            "created" => a.created_at.cmp(&b.created_at),
            "updated" => a.updated_at.cmp(&b.updated_at),
            "title" => title_key(&a.title).cmp(&title_key(&b.title)),
            _ => relevance(asked, b).cmp(&relevance(asked, a)),
        };
        order = if key.starts_with('-') { key_order.reverse() } else { key_order };
        if order != Ordering::Equal {
            return order;
        }
    }
    order.then_with(|| a.id.cmp(&b.id))
}

fn facets(world: &World, asked: &Asked, tasks: &[&Task]) -> Vec<String> {
    let mut counts: [BTreeMap<String, (usize, String)>; 4] = Default::default();
    let mut count = |facet: usize, key: String, shown: &str| {
        counts[facet].entry(key).or_insert_with(|| (0, shown.to_owned())).0 += 1;
    };
    let mut by_id = tasks.to_vec();
    by_id.sort_by_key(|task| task.id);
    for task in by_id {
        let status = if task.completed { "completed" } else { "open" };
        count(0, status.to_owned(), status);
        count(1, task.priority.name().to_owned(), task.priority.name());
        task.tags.iter().for_each(|tag| count(2, caseless(tag), tag));
        for word in DUE_WORDS.into_iter().filter(|word| *word != "any") {
            if due_word(world, task, word, asked.zone) {
                count(3, word.to_owned(), word);
            }
        }
    }
    let shown = counts.map(|counts| {
        let mut values: Vec<(usize, String)> = counts.into_values().collect();
        values.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        values.iter().map(|(count, value)| format!("{value}={count}")).collect::<Vec<_>>().join(" ")
    });
    shown.to_vec()
}

// ---- the comparison ----

fn parse(world: &World, params: &[(String, String)]) -> TaskQuery {
    let zone_of = |user: &UserId| world.index.zone_of(user);
    let context = Context { now: world.now, zone: Tz::Europe__Berlin, caller: None, only: None, zone_of: &zone_of };
    TaskQuery::parse(params, &context).unwrap_or_else(|errors| panic!("{params:?}: {errors:?}"))
}

fn shown_facets(page: &TaskPage) -> Vec<String> {
    let facets = page.facets.iter().flatten();
    facets
        .map(|(facet, values)| {
            assert!(Facet::ALL.contains(facet));
            values.iter().map(|v| format!("{}={}", v.value, v.count)).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn check(world: &mut World, seed: u64) {
    let asked = ask(world);
    let mut expected: Vec<&Task> = world.tasks.values().filter(|task| passes(world, &asked, task)).collect();
    expected.sort_by(|a, b| compare(world, &asked, a, b));

    let said = || format!("seed {seed}, now {}, {:?}", world.now, asked.params);
    let mut params = asked.params.clone();
    let mut got: Vec<Arc<Task>> = Vec::new();
    loop {
        let query = parse(world, &params);
        let page = world.index.tasks(&query, world.now);
        assert!(page.items.len() <= query.limit, "{}", said());
        if query.counts {
            assert_eq!(page.total, Some(expected.len() as u64), "total of {}", said());
        }
        if asked.facets && got.is_empty() {
            assert_eq!(shown_facets(&page), facets(world, &asked, &expected), "facets of {}", said());
        }
        got.extend(page.items);
        assert!(got.len() <= expected.len(), "too many: {}", said());
        let Some(next) = page.next else { break };
        params.retain(|(name, _)| name != "cursor");
        params.push(("cursor".to_owned(), next));
    }
    let ids = |tasks: &[&Task]| tasks.iter().map(|task| task.id).collect::<Vec<_>>();
    assert_eq!(ids(&got.iter().map(|task| &**task).collect::<Vec<_>>()), ids(&expected), "{}", said());

    // One by one, as a stream tests them, and all at once, as a stream begins.
    let query = parse(world, &asked.params);
    for task in world.tasks.values().take(20) {
        let passes = passes(world, &asked, task);
        assert_eq!(query.matches(task, world.index.zone_of_task(task)), passes, "{} {task:?}", said());
    }
    let mut all = ids(&expected);
    all.sort();
    assert_eq!(world.index.all_tasks(&query).0.iter().map(|t| t.id).collect::<Vec<_>>(), all, "{}", said());
}

fn compare_many(seeds: std::ops::Range<u64>, most: u128, rounds: usize, queries: usize) {
    for seed in seeds {
        let mut world = World::new(seed);
        for round in 0..rounds {
            world.change(most as usize, most);
            for _ in 0..queries {
                check(&mut world, seed);
            }
            if round == rounds / 2 {
                world.reload();
            }
        }
    }
}

/// `TASKTIDE_SEEDS=2000` makes it a long run.
#[test]
fn index_and_oracle_agree_on_few_tasks() {
    let seeds = std::env::var("TASKTIDE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    compare_many(0..seeds, 25, 6, 25);
}

#[test]
fn index_and_oracle_agree_on_more_tasks() {
    compare_many(1000..1006, 400, 6, 60);
}

// ---- paging while the world changes ----

#[test]
fn a_task_whose_key_stays_is_returned_exactly_once() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.change(300, 150);
        let asked = ask(&mut world);
        let mut params = asked.params.clone();
        params.retain(|(name, _)| name != "limit");
        params.push(("limit".to_owned(), "7".to_owned()));
        let matching = |world: &World| -> BTreeSet<TaskId> {
            world.tasks.values().filter(|task| passes(world, &asked, task)).map(|task| task.id).collect()
        };
        let (mut stayed, mut seen) = (matching(&world), BTreeMap::<TaskId, usize>::new());
        let zones = world.zones.clone();
        loop {
            let page = world.index.tasks(&parse(&world, &params), world.now);
            page.items.iter().for_each(|task| *seen.entry(task.id).or_default() += 1);
            let Some(next) = page.next else { break };
            params.retain(|(name, _)| name != "cursor");
            params.push(("cursor".to_owned(), next));
            let before = world.tasks.clone();
            world.change(10, 150);
            if world.zones != zones {
                // Another zone of the asker is another query; of a task's owner, another key.
                break;
            }
            stayed.retain(|id| before.get(id) == world.tasks.get(id));
        }
        if world.zones == zones {
            for id in &stayed {
                assert_eq!(seen.get(id), Some(&1), "seed {seed}: {id} {:?}", asked.params);
            }
        }
    }
}

#[test]
fn an_answer_is_of_one_commit() {
    const TASKS: u128 = 40;
    let index = Arc::new(Index::new(&[], Tz::UTC));
    let commit = |n: u64| {
        // Odd commits complete the even tasks and name all of them anew.
        let changed = (1..=TASKS).map(|id| {
            let task = task(id, |task| {
                task.title = format!("v{n}").into();
                task.completed = n % 2 == 1 && id % 2 == 0;
            });
            row(task.id, None, Some(task))
        });
        let moved = NextOffset { topic: SourceTopic::TaskEvents, partition: 3, offset: n as i64 };
        Commit { n, tasks: changed.collect(), positions: vec![moved], ..Commit::default() }
    };
    index.apply(&commit(1));
    let writer = std::thread::spawn({
        let index = Arc::clone(&index);
        move || (2..400).for_each(|n| drop(index.apply(&commit(n))))
    });
    let now = Timestamp::from_millis(0);
    let mut query = TaskQuery::everything(None, Tz::UTC, now);
    query.limit = 100;
    (query.counts, query.facets) = (true, vec![Facet::Status]);
    loop {
        let page = index.tasks(&query, now);
        let n = page.freshness.n;
        let open = if n % 2 == 1 { TASKS / 2 } else { TASKS } as usize;
        assert_eq!((page.items.len(), page.total), (open, Some(open as u64)));
        assert!(page.items.iter().all(|task| task.title == format!("v{n}")), "commit {n}");
        assert_eq!(&*page.freshness.positions, format!("3:{}", n - 1));
        if n == 399 {
            break;
        }
    }
    writer.join().unwrap();
}
