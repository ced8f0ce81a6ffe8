//! One event: the apply rules of §1.2 to §1.4 and what §6 derives from them.

use std::sync::{Arc, LazyLock};

use chrono_tz::Tz;
use topics::Task;
use topics::audit::AuditAction;
use topics::commit::Erasure;
use topics::event::{EventBody, Fields, TaskAction, TaskChange, TaskEvent, UserSettings};
use topics::ids::{TaskId, UserId};
use topics::time::Timestamp;

use super::draft::{Said, audit_action, cause_of};
use super::order::{Order, Verdict};
use super::origins::{self, Origins, Stated, States, ask_alike};
use super::series::{Before, Marks, Noted, Resting};
use super::snapshot::{Basis, Given, from_changes, from_snapshot};
use super::{Drafts, Entry, Tasks, series};
use crate::state::ledger::{self, Completion, Created, Match, SeriesFields};
use crate::state::{Cause, Change, Delta, Settings, Step};

impl Tasks {
    /// Applies one event that was checked.
    pub(super) fn apply(&mut self, event: TaskEvent, drafts: &mut Drafts) {
        if self.identities.contains(event.audit_id) {
            drafts.counts.duplicates += 1;
            return;
        }
        self.identities.insert(event.audit_id);
        drafts.frontier = drafts.frontier.max(event.time);
        let order = drafts.order;
        drafts.order += 1;
        let mut event = event;
        match std::mem::replace(&mut event.body, EventBody::UserErased { user: NOBODY.clone() }) {
            EventBody::Task(change) => self.task_event(event, *change, order, drafts),
            EventBody::ReminderSnoozed { task, reminder, until, .. } => {
                self.reminder_event(
                    event,
                    task,
                    Change::Snoozed { reminder, until },
                    AuditAction::ReminderSnoozed,
                    order,
                    drafts,
                );
            }
            EventBody::ReminderDismissed { task, reminder, .. } => {
                self.reminder_event(
                    event,
                    task,
                    Change::Dismissed { reminder },
                    AuditAction::ReminderDismissed,
                    order,
                    drafts,
                );
            }
            EventBody::UserUpdated { user, settings } => self.user_updated(event, &user, &settings, order, drafts),
            EventBody::UserErased { user } => self.user_erased(event, &user, order, drafts),
        }
    }

    fn task_event(&mut self, event: TaskEvent, change: TaskChange, order: u32, drafts: &mut Drafts) {
        let id = change.task;
        let action = audit_action(change.action);
        let known = self.entries.get(id.0);
        let live = known.and_then(|entry| entry.task.clone());
        let owner =
            change.user.as_ref().or(known.map(|entry| &entry.owner)).expect("checked: a user is given or stored");
        let (owner, settings) = self.users.meet(owner);
        let covered = self.users.covers(&owner, event.time);
        let verdict =
            known.map_or(Verdict::Newer { gap: false }, |entry| entry.order.judge(&event, change.task_version));
        let buried = known.is_some() && live.is_none();
        let rises = change.snapshot.is_some()
            && (change.action == TaskAction::Created
                || (change.action == TaskAction::Updated && change.deleted == Some(false)));
        let gap = match verdict {
            Verdict::Newer { gap } if !buried || rises || change.action == TaskAction::Deleted => gap,
            _ => {
                drafts.counts.stale += 1;
                drafts.touched.push((id, live.clone()));
                let warnings = event.warnings.clone();
                let kept = known.filter(|_| live.is_some()).and_then(|entry| entry.stated().kept(None));
                let said =
                    Said { before: &live, after: &live, stale: true, warnings, kept, covered, ..Said::default() };
                drafts.entry(order, &event, action, Some(id), owner, said);
                return;
            }
        };
        let implicit = known.is_none() && matches!(change.action, TaskAction::Updated | TaskAction::Completed);
        let erasures = self.users.erasures(&owner);
        let stored = known.filter(|_| live.is_some());
        let changed = known.map_or(0, |entry| entry.version) + 1;
        let times = stored.map(|entry| (entry.asked_at, entry.first));
        let first = times.map_or(event.time, |(_, first)| first.min(event.time));
        let TaskChange { snapshot, changes, task_version, action: task_action, .. } = change;
        let states = match &snapshot {
            Some(fields) => States::of_snapshot(fields),
            None => States::of_changes(changes.as_deref(), task_action),
        };
        let (base, other) = match task_action {
            TaskAction::Deleted => (event.time, None),
            _ => origins::after(stored.map(Entry::stated), states, &owner, event.time),
        };
        // An erasure counts in the version of what it found, whichever of the two is read first.
        let (changed, version) = match (task_action, times) {
            (TaskAction::Deleted, Some((_, first))) => {
                let found = erasures.iter().filter(|at| (first..event.time).contains(*at)).count() as u64;
                (changed + found, changed + found)
            }
            (TaskAction::Deleted, None) => (changed, changed),
            _ => (changed, changed + erasures.iter().filter(|at| **at >= first).count() as u64),
        };

        let mut matched = Match::default();
        let mut noted = Noted::default();
        let after = (task_action != TaskAction::Deleted).then(|| {
            let basis =
                Basis { id, user: &owner, action: task_action, time: event.time, stored: live.as_deref(), version };
            let (mut task, given) = match (snapshot, &live) {
                (Some(fields), _) => from_snapshot(&basis, *fields),
                (None, Some(stored)) => {
                    from_changes(&basis, stored, changes.map_or_else(Fields::default, |fields| *fields))
                }
                (None, None) => unreachable!("checked: without a snapshot there is a stored task"),
            };
            if self.users.any_erased() {
                let stated = Stated { base, other: other.as_deref(), owner: &owner };
                stated.destroy(&mut task, |user, at| self.users.covers(user, at));
            }
            // Whatever tells of a task first, or brings it back, tells that it was created.
            if task_action == TaskAction::Created || live.is_none() {
                let correlation = event.correlation_id.as_deref().filter(|_| task_action == TaskAction::Created);
                matched = self.match_created(&task, &given, correlation, drafts);
            }
            let zone = settings.zone_at(&task, event.time);
            noted = self.settle_series(&mut task, live.as_deref(), given, matched.series.as_ref(), zone);
            if !event.warnings.is_empty() {
                task.warnings.extend(event.warnings.iter().cloned());
            }
            task.warnings.sort_by(|a, b| a.field.cmp(&b.field));
            Arc::new(task)
        });
        let stated = Stated { base, other: other.as_deref(), owner: &owner };
        let kept = stated.kept(Some(event.time)).filter(|_| after.is_some());
        let asks_covered = stated.asks_covered(|user, at| self.users.covers(user, at));
        let asked_at = match (times, &live, &after) {
            (Some((asked_at, _)), Some(before), Some(after)) if ask_alike(before, after) => asked_at,
            _ => event.time,
        };
        let first = if after.is_some() { first } else { times.map_or(event.time, |(_, first)| first) };
        let stored = Stored { task: after.clone(), version: changed, base, asked_at, first };
        self.store(id, &event, task_version, &owner, stored, Remembered { noted, content: matched.content, other });
        drafts.counts.applied[action as usize] += 1;
        drafts.counts.duplicate_successors += u64::from(matched.duplicate);
        drafts.touched.push((id, live.clone()));

        let said = Said {
            before: &live,
            after: &after,
            applied: true,
            gap,
            warnings: after.as_ref().map_or_else(|| event.warnings.clone(), |task| task.warnings.clone()),
            implicit,
            duplicate_successor: matched.duplicate,
            kept,
            covered,
            ..Said::default()
        };
        drafts.entry(order, &event, action, Some(id), owner.clone(), said);
        let completes = after.as_ref().is_some_and(|after| {
            after.completed && live.as_ref().map_or(task_action == TaskAction::Completed, |before| !before.completed)
        });
        if live.is_none() && after.is_none() {
            return;
        }
        let cause = cause_of(event, &owner);
        let delta = Delta {
            order,
            task: id,
            user: owner,
            before: live,
            after,
            settings,
            change: Change::Task,
            asked_at,
            covered: asks_covered,
            cause,
        };
        let completed = completes.then(|| delta.clone());
        drafts.steps.push(Step::Delta(delta));
        if let Some(Delta { after: Some(task), settings, cause, .. }) = &completed {
            self.complete(task, settings, cause, order, drafts);
        }
    }

    fn match_created(&mut self, task: &Task, given: &Given, correlation: Option<&str>, drafts: &mut Drafts) -> Match {
        let created = Created {
            task: task.id,
            user: &task.user_id,
            previous: given.previous,
            correlation,
            title: &task.title,
            due: task.due_date,
            recurring: task.recurrence_rule.is_some(),
            new: self.entries.get(task.id.0).is_none(),
        };
        let mut matched = self.ledger.created(&created, &mut drafts.ledger_out());
        if let Some(previous) = matched.erased.and_then(|task| self.entries.get(task.0)?.task.clone())
            && let Some(completed_at) = previous.completed_at
        {
            let zone = self.users.settings(&previous.user_id).zone_at(&previous, completed_at);
            matched.series = ledger::next_of(&previous, zone, completed_at, &mut self.rules, self.missed);
        }
        if let Some(content) = matched.content {
            self.ledger.remember_early(content, task.id);
        }
        matched
    }

    fn settle_series(
        &mut self,
        task: &mut Task,
        stored: Option<&Task>,
        given: Given,
        ledger: Option<&SeriesFields>,
        zone: Tz,
    ) -> Noted {
        let entry = self.entries.get(task.id.0);
        let rare = entry.and_then(|entry| entry.rare.as_deref());
        // Of the deleted only a successor goes on; any other task begins anew.
        let resting = rare
            .and_then(|rare| rare.resting.as_deref())
            .filter(|resting| resting.previous().is_some() || ledger.is_some());
        if let Some(resting) = resting {
            resting.wake(task);
        }
        let goes_on = stored.is_some() || resting.is_some();
        let (echoes, marks) = match (rare, entry) {
            (rare, Some(entry)) if goes_on => (rare.map_or(&[][..], |rare| &rare.echoes), entry.marks),
            (_, entry) => (&[][..], entry.map_or(Marks::default(), |entry| entry.marks.anew())),
        };
        if task.recurrence_rule.is_none()
            && stored.is_none_or(|stored| stored.recurrence_rule.is_none())
            && given == Given::default()
            && ledger.is_none()
            && resting.is_none()
        {
            return Noted { marks, anew: !goes_on, old: Vec::new() };
        }
        let before = stored.map(Before::of).or(resting.map(Resting::before));
        series::settle(&mut self.rules, task, series::Sources { before, given, ledger, echoes, marks, zone })
    }

    fn store(
        &mut self,
        id: TaskId,
        event: &TaskEvent,
        task_version: Option<u64>,
        owner: &UserId,
        stored: Stored,
        remembered: Remembered,
    ) {
        let Stored { task, version, base, asked_at, first } = stored;
        let previous = task.as_ref().and_then(|task| task.previous_task_id);
        let entry = match self.entries.get_mut(id.0) {
            Some(entry) => {
                entry.order.note(event, task_version);
                if entry.owner != *owner {
                    entry.owner = owner.clone();
                    self.users.own(owner, id, true);
                }
                (entry.version, entry.base, entry.asked_at, entry.first) = (version, base, asked_at, first);
                entry
            }
            None => {
                self.users.own(owner, id, false);
                let order = Order::first(event, task_version);
                let (owner, marks) = (owner.clone(), Marks::default());
                let entry =
                    Entry { task: None, owner, version, base, asked_at, first, order, chain: 0, marks, rare: None };
                self.entries.insert(id.0, entry);
                self.entries.get_mut(id.0).expect("just inserted")
            }
        };
        let named_before = entry.task.as_ref().and_then(|task| task.previous_task_id);
        match task {
            Some(task) => entry.keep(task, remembered),
            None => entry.bury(),
        }
        if let Some(previous) = previous.filter(|_| previous != named_before) {
            self.ledger.remember_previous(previous, id);
        }
    }

    /// A completion: the ledger decides the successor. Tasks that are there already get its series fields.
    fn complete(
        &mut self,
        task: &Arc<Task>,
        settings: &Arc<Settings>,
        cause: &Arc<Cause>,
        order: u32,
        drafts: &mut Drafts,
    ) {
        let completion = Completion {
            task,
            zone: settings.zone_at(task, cause.time),
            covered: self.users.covers(&task.user_id, cause.time),
            cause,
            order,
            now: self.now,
            missed: self.missed,
            horizon: self.horizon().filter(|_| !self.holding),
        };
        let entries = &self.entries;
        let owner = |id: TaskId| entries.get(id.0).map(|entry| &entry.owner);
        let Some((early, fields)) = self.ledger.decide(&completion, &mut self.rules, owner, &mut drafts.ledger_out())
        else {
            return;
        };
        for id in early {
            self.fill_in(id, &fields, cause, order, drafts);
        }
    }

    /// A task turned out to be the successor that was just decided.
    fn fill_in(&mut self, id: TaskId, fields: &SeriesFields, cause: &Arc<Cause>, order: u32, drafts: &mut Drafts) {
        let Some(entry) = self.entries.get_mut(id.0) else { return };
        let (before, after) = entry.fill_in(fields);
        let (owner, asked_at) = (entry.owner.clone(), entry.asked_at);
        let covered = entry.stated().asks_covered(|user, at| self.users.covers(user, at));
        drafts.touched.push((id, before.clone()));
        let (Some(before), Some(after)) = (before, after) else { return };
        drafts.steps.push(Step::Delta(Delta {
            order,
            task: id,
            settings: Arc::clone(self.users.settings(&owner)),
            user: owner,
            before: Some(before),
            after: Some(after),
            change: Change::Task,
            asked_at,
            covered,
            cause: Arc::clone(cause),
        }));
    }

    fn reminder_event(
        &mut self,
        event: TaskEvent,
        id: TaskId,
        change: Change,
        action: AuditAction,
        order: u32,
        drafts: &mut Drafts,
    ) {
        let Some(entry) = self.entries.get(id.0) else { return };
        let task = entry.task.clone();
        let asked_at = entry.asked_at;
        let kept = entry.stated().kept(None).filter(|_| task.is_some());
        let asks_covered = entry.stated().asks_covered(|user, at| self.users.covers(user, at));
        let covered = self.users.covers(&entry.owner, event.time);
        let (owner, settings) = self.users.meet(&entry.owner.clone());
        drafts.counts.applied[action as usize] += 1;
        drafts.touched.push((id, task.clone()));
        let warnings = event.warnings.clone();
        let said = Said { before: &task, after: &task, warnings, kept, covered, ..Said::default() };
        drafts.entry(order, &event, action, Some(id), owner.clone(), said);
        if task.is_none() || covered {
            return;
        }
        let cause = cause_of(event, &owner);
        drafts.steps.push(Step::Delta(Delta {
            order,
            task: id,
            user: owner,
            before: task.clone(),
            after: task,
            settings,
            change,
            asked_at,
            covered: asks_covered,
            cause,
        }));
    }

    fn user_updated(
        &mut self,
        event: TaskEvent,
        user: &UserId,
        change: &UserSettings,
        order: u32,
        drafts: &mut Drafts,
    ) {
        let (user, _) = self.users.meet(user);
        let settings = self.users.update(&user, event.time, (event.topic, event.position), change);
        let action = AuditAction::UserUpdated;
        drafts.counts.applied[action as usize] += 1;
        drafts.users.push(user.clone());
        let warnings = event.warnings.iter().chain(&change.warnings).cloned().collect();
        let said = Said { warnings, covered: settings.is_none(), ..Said::default() };
        drafts.entry(order, &event, action, None, user.clone(), said);
        let Some(settings) = settings else { return };
        let cause = cause_of(event, &user);
        for id in self.users.tasks(&user) {
            let Some(entry) = self.entries.get(id.0).filter(|entry| entry.owner == user) else { continue };
            // Of a deleted one there may be reminders that expired as other settings would have it.
            if entry.task.is_none() && !settings.since.told {
                continue;
            }
            drafts.steps.push(Step::Delta(Delta {
                order,
                task: *id,
                user: user.clone(),
                before: entry.task.clone(),
                after: entry.task.clone(),
                settings: Arc::clone(&settings),
                change: Change::Settings,
                asked_at: entry.asked_at,
                covered: entry.stated().asks_covered(|user, at| self.users.covers(user, at)),
                cause: Arc::clone(&cause),
            }));
        }
    }

    /// Destroys what the events up to this one said of a user, in the tasks that are or were theirs.
    fn user_erased(&mut self, event: TaskEvent, user: &UserId, order: u32, drafts: &mut Drafts) {
        let (user, _) = self.users.meet(user);
        let at = event.time;
        let settings = self.users.erase(&user, at);
        drafts.counts.applied[AuditAction::Erased as usize] += 1;
        drafts.users.push(user.clone());
        drafts.erased.push(Erasure { user: user.clone(), at });
        let said = Said { warnings: event.warnings.clone(), covered: true, ..Said::default() };
        drafts.entry(order, &event, AuditAction::Erased, None, user.clone(), said);
        self.ledger.erase(&user, at, &mut drafts.ledger_out());
        let cause = cause_of(event, &user);
        let tasks: Vec<TaskId> = self.users.tasks(&user).to_vec();
        for id in tasks {
            let Some(entry) = self.entries.get_mut(id.0) else { continue };
            let own = entry.owner == user;
            let Some(before) = entry.task.clone() else {
                // While the task was there, it would have found it.
                if own && (entry.first..entry.base).contains(&at) {
                    entry.version += 1;
                    drafts.touched.push((id, None));
                }
                if own {
                    drafts.steps.push(Step::Delta(Delta {
                        order,
                        task: id,
                        user: user.clone(),
                        before: None,
                        after: None,
                        settings: Arc::clone(&settings),
                        change: Change::Erased { at },
                        asked_at: entry.asked_at,
                        covered: false,
                        cause: Arc::clone(&cause),
                    }));
                }
                continue;
            };
            let mut after = Task::clone(&before);
            entry.stated().destroy(&mut after, |user, at| self.users.covers(user, at));
            if own {
                after.version = entry.version + entry.erased_times(&self.users);
            } else if after != *before {
                entry.version += 1;
                after.version += 1;
            }
            let changed = after != *before;
            if !own && !changed {
                continue;
            }
            let after = if changed { Arc::new(after) } else { Arc::clone(&before) };
            if changed {
                entry.task = Some(Arc::clone(&after));
                drafts.touched.push((id, Some(Arc::clone(&before))));
                drafts.revised.push((order, id, Arc::clone(&after)));
            }
            let covered = entry.stated().asks_covered(|user, at| self.users.covers(user, at));
            drafts.steps.push(Step::Delta(Delta {
                order,
                task: id,
                user: entry.owner.clone(),
                before: Some(before),
                after: Some(after),
                settings: if own { Arc::clone(&settings) } else { Arc::clone(self.users.settings(&entry.owner)) },
                change: Change::Erased { at },
                asked_at: entry.asked_at,
                covered,
                cause: Arc::clone(&cause),
            }));
        }
    }
}

/// What is kept of a task after an event.
struct Stored {
    task: Option<Arc<Task>>,
    version: u64,
    base: Timestamp,
    asked_at: Timestamp,
    first: Timestamp,
}

/// What is remembered of a task's series and of few tasks, see [`super::Rare`].
pub(super) struct Remembered {
    pub(super) noted: Noted,
    pub(super) content: Option<u64>,
    pub(super) other: Option<Box<Origins>>,
}

/// Stands where a body was taken out.
static NOBODY: LazyLock<UserId> = LazyLock::new(|| UserId::parse("nobody").expect("a short word"));
