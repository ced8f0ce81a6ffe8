//! The ledger of creates in plain code: which successor a completion decides, and which task turns out to be it.

use serde_json::{Map, Value, json};
use topics::event::{TaskAction, TaskEvent};
use topics::{TaskId, ids};
use uuid::Uuid;

use super::model::series;
use super::model::task::TaskState;
use super::{Action, Confirmed, Create, Known, State, as_it_travels};

impl State {
    /// A task appears that a create was, or is, waiting for; gives the fields decided then.
    pub(super) fn confirm(
        &mut self,
        event: &TaskEvent,
        action: TaskAction,
        task: &TaskState,
        previous: Option<TaskId>,
    ) -> Confirmed {
        let same = |create: &Create| {
            action == TaskAction::Created
                && !create.erased
                && create.correlation.is_some()
                && create.correlation.as_deref() == event.correlation_id.as_deref()
                && create.fields.title == task.title
                && create.fields.due == task.due
        };
        let found = self.actions.iter_mut().find(|(id, action)| {
            action.create.as_ref().is_some_and(|create| {
                **id == task.id.0 || (task.id != action.task && (previous == Some(action.task) || same(create)))
            })
        });
        let Some((_, action)) = found else { return Confirmed::default() };
        let duplicate = std::mem::replace(&mut action.state, "CONFIRMED") == "CONFIRMED";
        Confirmed { create: action.create.as_ref().map(|create| create.fields.clone()), duplicate }
    }

    /// A task was completed: decides its successor, once.
    pub(super) fn decide(&mut self, id: TaskId, event: &TaskEvent) -> Option<(&'static str, Uuid)> {
        let task = self.live(id)?.clone();
        let successor_id = ids::successor(id);
        if self.actions.contains_key(&successor_id.0) {
            return None;
        }
        let made = series::successor(&task, self.zone_at(task.zone, &task.user, event.time))?;
        let mut fields = task.clone();
        fields.id = successor_id;
        fields.due = Some(made.next.due);
        fields.start = Some(made.start);
        fields.scheduled = Some(made.next.due);
        fields.index = Some(made.next.index);
        fields.previous = Some(id);
        fields.series = task.series.or(Some(id));
        // What was erased travels as empty.
        fields.erased.clear();
        let shown = fields.json();
        let mut body: Map<String, Value> = fields.extra.clone().into_iter().collect();
        for name in [
            "id",
            "userId",
            "title",
            "description",
            "priority",
            "tags",
            "dueDate",
            "timezone",
            "recurrenceRule",
            "recurrenceMode",
            "recurrenceStart",
            "recurrenceId",
            "reminders",
            "seriesId",
            "previousTaskId",
            "occurrenceIndex",
        ] {
            body.insert(name.to_owned(), shown[name].clone());
        }
        body.values_mut().for_each(as_it_travels);
        let correlation = event.correlation_id.as_ref().map(|id| id.to_string());
        body.insert("correlationId".to_owned(), json!(correlation));
        body.insert("causationId".to_owned(), json!(event.id.as_str()));
        // Tasks that are the successor already, or name the completed one.
        let names = |known: &Known| {
            known.live.as_ref().or(known.resting.as_ref()).is_some_and(|task| task.previous == Some(id))
        };
        let early: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(task, known)| **task == successor_id || names(known))
            .map(|(task, _)| *task)
            .collect();
        let erased = self.user(&task.user).is_erased(event.time);
        let action = Action {
            kind: "create-next-task",
            component: "chat-api-out",
            task: id,
            state: match (early.is_empty(), erased) {
                (false, _) => "CONFIRMED",
                (true, true) => "CANCELLED",
                (true, false) => "DELIVERED",
            },
            create: Some(Create { body, correlation, fields: fields.clone(), at: event.time, erased }),
        };
        self.actions.insert(successor_id.0, action);
        for early in early {
            self.fill_in(early, &fields, event);
        }
        Some(("NEXT_TASK_CREATED", successor_id.0))
    }

    /// A task, perhaps a deleted one, turned out to be the successor that was just decided.
    pub(super) fn fill_in(&mut self, id: TaskId, create: &TaskState, event: &TaskEvent) {
        let known = self.tasks.get_mut(&id).expect("chosen from the tasks");
        let Known { live, resting, series, told_task, .. } = known;
        let before = live.clone();
        let Some(task) = live.as_mut().or(resting.as_mut()) else { return };
        let filled = series::fill_in(task, create, series);
        let (true, Some(before)) = (filled, before) else { return };
        *told_task = told_task.take().or(Some(before));
        let facts = self.align(id, event.time, None);
        self.write_facts(id, event, facts);
    }
}
