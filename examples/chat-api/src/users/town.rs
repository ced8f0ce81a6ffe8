//! The users and what they do, one call after the other.

use std::ops::Range;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};
use uuid::Uuid;

use super::calls::{CallError, Calls};
use super::due::{SHORT_NOTICE, fresh_reminder, is_break, is_due};
use super::{Pace, words};
use crate::moment::Moment;
use crate::task::Task;

/// Below so many open tasks a user rather creates, above so many rather finishes.
const OPEN_TASKS: Range<usize> = 8..30;

struct Person {
    id: String,
    zone: &'static str,
}

impl Person {
    fn new(index: usize) -> Person {
        Person { id: words::user_id(index), zone: words::zone(index) }
    }
}

/// A task that someone means to complete at a certain instant.
struct Plan {
    at: Instant,
    task_id: Uuid,
}

pub(super) struct Town {
    calls: Calls,
    rng: StdRng,
    people: Vec<Person>,
    plans: Vec<Plan>,
}

impl Town {
    /// Finds `users` people, all of whose doings follow from `seed`.
    pub(super) fn new(base_url: String, users: usize, seed: u64) -> Town {
        Town {
            calls: Calls::new(base_url),
            rng: StdRng::seed_from_u64(seed),
            people: (0..users).map(Person::new).collect(),
            plans: Vec::new(),
        }
    }

    /// Never ends.
    pub(super) async fn live(&mut self, pace: Pace) {
        while let Err(error) = self.settle(pace).await {
            warn!(error = &error as &dyn std::error::Error, "users cannot settle yet; they try again");
            sleep(Duration::from_secs(1)).await;
        }
        let mut clock = interval(pace.step);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            match self.step().await {
                Ok(()) => {}
                Err(error) if error.is_ordinary() => debug!(%error, "a user came too late"),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "a user's call failed; the others go on");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Gives every user settings, the first tasks to those who have none, and some a break.
    async fn settle(&mut self, pace: Pace) -> Result<(), CallError> {
        self.plans.clear();
        for index in 0..self.people.len() {
            let Person { id, zone } = &self.people[index];
            let settings = json!({
                "timezone": zone,
                "channels": ["in-app"],
                "email": format!("{id}@example.org"),
            });
            let (path, id) = (format!("/api/users/{id}"), id.clone());
            self.calls.make(Method::PUT, &path, Some(&settings)).await?;
            let share = pace.seeded.div_ceil(self.people.len());
            let held = self.calls.tasks(&id, "all").await?.len();
            for _ in held..share {
                self.create(index).await?;
            }
        }
        for index in 0..self.people.len().min(3) {
            let until_due = pace.first_due + pace.apart * index as i32;
            let task = self.take_break(index, until_due).await?;
            let at = Instant::now() + (until_due + TimeDelta::seconds(1)).to_std().unwrap_or_default();
            self.plans.push(Plan { at, task_id: task.id });
        }
        Ok(())
    }

    /// One call or two by one user: what is planned first, then what is due, then whatever comes to mind.
    async fn step(&mut self) -> Result<(), CallError> {
        let now = Instant::now();
        if let Some(due) = self.plans.iter().position(|plan| plan.at <= now) {
            let plan = self.plans.swap_remove(due);
            return self.calls.complete(plan.task_id).await;
        }
        let index = self.rng.random_range(0..self.people.len());
        let id = self.people[index].id.clone();
        let open = self.calls.tasks(&id, "open").await?;
        if let Some(task) = open.iter().find(|task| is_break(task) && is_due(task))
            && self.rng.random_bool(0.9)
        {
            return self.calls.complete(task.id).await;
        }
        let (create, finish) = if open.len() < OPEN_TASKS.start {
            (60, 5)
        } else if open.len() >= OPEN_TASKS.end {
            (10, 60)
        } else {
            (32, 22)
        };
        let rest = 100 - create - finish;
        let roll = self.rng.random_range(0..100);
        if roll < create || open.is_empty() {
            return self.create(index).await;
        }
        if roll < create + finish {
            return self.finish_one(&open).await;
        }
        // The rest, in parts of ten: edit 4, snooze 2, dismiss 1, reopen 2, delete 1.
        match (roll - create - finish) * 10 / rest {
            0..=3 => self.edit_one(&open).await,
            4..=5 => self.answer_reminder(&open, true).await,
            6 => self.answer_reminder(&open, false).await,
            7..=8 => self.reopen_one(&id).await,
            _ => self.delete_one(&open).await,
        }
    }

    async fn create(&mut self, index: usize) -> Result<(), CallError> {
        let (mut task, rng) = (json!({}), &mut self.rng);
        let errand = words::any_errand(rng);
        task["title"] = json!(errand.title(rng));
        task["tags"] = json!(errand.tags);
        task["priority"] = json!(errand.priority);
        if rng.random_bool(0.3) {
            task["description"] = json!(words::any_note(rng));
        }
        match rng.random_range(0..10) {
            // Due in a moment, so that there is always a reminder about to fire.
            0..=2 => {
                let due = Moment::now().plus(TimeDelta::seconds(rng.random_range(20..90)));
                task["dueDate"] = json!(due);
                task["reminders"] = json!([SHORT_NOTICE]);
            }
            3..=4 => {
                let due = Moment::now().plus(TimeDelta::minutes(rng.random_range(90..3000)));
                task["dueDate"] = json!(due);
                task["reminders"] = json!(["PT1H", {"offset": "P1D", "channels": ["in-app"]}]);
            }
            5 => task["dueDate"] = json!(date_in_days(rng.random_range(0..10))),
            6 => task["dueDate"] = json!(date_in_days(-rng.random_range(1..4))),
            7..=8 => {
                let (title, rule, tag) = words::any_routine(rng);
                let (day, hour) = (rng.random_range(0..7), rng.random_range(7..20));
                task["title"] = json!(title);
                task["tags"] = json!([tag]);
                task["recurrenceRule"] = json!(rule);
                task["dueDate"] = json!(format!("{}T{hour:02}:30", date_in_days(day)));
                task["timezone"] = json!(self.people[index].zone);
            }
            _ => {}
        }
        self.post_task(index, task).await.map(drop)
    }

    /// Creates a break due after `until_due`, which comes back every minute or two.
    async fn take_break(&mut self, index: usize, until_due: TimeDelta) -> Result<Task, CallError> {
        let interval = self.rng.random_range(1..=2);
        let task = json!({
            "title": words::any_break(&mut self.rng),
            "tags": ["break", "health"],
            "priority": "LOW",
            "dueDate": Moment::now().plus(until_due),
            "recurrenceRule": format!("FREQ=MINUTELY;INTERVAL={interval}"),
            "reminders": ["PT5S"],
        });
        self.post_task(index, task).await
    }

    async fn post_task(&self, index: usize, mut task: Value) -> Result<Task, CallError> {
        task["userId"] = json!(self.people[index].id);
        self.calls.create(&task).await
    }

    async fn finish_one(&mut self, open: &[Task]) -> Result<(), CallError> {
        // A break is completed when it is due, which shows more than completing it early.
        let chosen = self.any(open, |task| !is_break(task));
        match chosen {
            Some(task) => self.calls.complete(task.id).await,
            None => Ok(()),
        }
    }

    async fn edit_one(&mut self, open: &[Task]) -> Result<(), CallError> {
        let Some(task) = self.any(open, |task| !is_break(task)) else {
            return Ok(());
        };
        let rng = &mut self.rng;
        let patch = match rng.random_range(0..5) {
            0 => json!({"title": words::any_errand(rng).title(rng)}),
            1 => json!({"description": words::any_note(rng)}),
            2 => {
                let urgency = ["HIGH", "MEDIUM", "LOW", "NONE"];
                json!({"priority": urgency.choose(rng)})
            }
            3 => {
                let mut tags = task.tags.clone();
                tags.extend(words::any_errand(rng).tags.iter().map(|tag| (*tag).to_owned()));
                json!({"tags": tags})
            }
            _ if task.recurrence_rule.is_none() => {
                let later = TimeDelta::minutes(rng.random_range(2..600));
                json!({"dueDate": Moment::now().plus(later), "reminders": ["PT1M"]})
            }
            _ => json!({"reminders": ["PT15M", "PT5M"]}),
        };
        let path = format!("/api/tasks/{}", task.id);
        self.calls.make(Method::PATCH, &path, Some(&patch)).await
    }

    /// Snoozes or dismisses a reminder that has just come, or is about to.
    async fn answer_reminder(&mut self, open: &[Task], snooze: bool) -> Result<(), CallError> {
        let Some((task_id, reminder_id)) = self
            .any(open, |task| !is_break(task) && fresh_reminder(task).is_some())
            .and_then(|task| Some((task.id, fresh_reminder(task)?)))
        else {
            return Ok(());
        };
        let path = format!("/api/tasks/{task_id}/reminders/{reminder_id}");
        if snooze {
            let later = TimeDelta::seconds(self.rng.random_range(15..60));
            let body = json!({"until": Moment::now().plus(later)});
            let path = format!("{path}/snooze");
            self.calls.make(Method::POST, &path, Some(&body)).await
        } else {
            self.calls.make(Method::POST, &format!("{path}/dismiss"), None).await
        }
    }

    async fn reopen_one(&mut self, user_id: &str) -> Result<(), CallError> {
        let done = self.calls.tasks(user_id, "completed").await?;
        let Some(id) = self.any(&done, |task| task.recurrence_rule.is_none()).map(|task| task.id) else {
            return Ok(());
        };
        self.calls.make(Method::POST, &format!("/api/tasks/{id}/reopen"), None).await
    }

    async fn delete_one(&mut self, open: &[Task]) -> Result<(), CallError> {
        let Some(id) = self.any(open, |task| !is_break(task)).map(|task| task.id) else {
            return Ok(());
        };
        self.calls.make(Method::DELETE, &format!("/api/tasks/{id}"), None).await
    }

    fn any<'a>(&mut self, tasks: &'a [Task], wanted: impl Fn(&Task) -> bool) -> Option<&'a Task> {
        let fitting: Vec<&Task> = tasks.iter().filter(|task| wanted(task)).collect();
        fitting.choose(&mut self.rng).copied()
    }
}

fn date_in_days(days: i64) -> String {
    let date = Utc::now().date_naive() + TimeDelta::days(days);
    date.format("%Y-%m-%d").to_string()
}
