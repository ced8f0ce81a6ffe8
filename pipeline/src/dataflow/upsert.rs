//! The upsert: applies what was polled to the stored tasks and the ledger, eagerly and in order.
//!
//! A hand-written operator and not `arrange_from_upsert` or `reduce`: the contract's order of events has several
//! keys, a deletion must not lose a tie, and it costs a tenth.

use std::cell::RefCell;
use std::rc::Rc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use topics::commit::{NextOffset, Traced};
use topics::event::{Decoded, EventBody, TaskEvent};
use topics::record::SourceTopic;
use topics::trace::TraceParent;

use super::{Batch, Built, Head, Part};
use crate::input::Message;
use crate::state::tasks::{Drafts, Tasks};
use crate::state::{Step, Turn};

type Turns<'scope> = StreamVec<'scope, u64, Rc<Turn>>;
type Parts<'scope> = StreamVec<'scope, u64, Part>;

/// Builds the operator: what the views learn, and the upsert's own part of the commit.
pub(super) fn upsert<'scope>(
    batches: StreamVec<'scope, u64, Batch>,
    tasks: Rc<RefCell<Tasks>>,
    traces: bool,
) -> (Turns<'scope>, Parts<'scope>) {
    let mut builder = OperatorBuilder::new("Upsert".to_owned(), batches.scope());
    let mut input = builder.new_input(batches, Pipeline);
    let (turns, turn_stream) = builder.new_output();
    let (heads, head_stream) = builder.new_output();
    let (mut turns, mut heads) =
        (OutputBuilder::<_, Built<Rc<Turn>>>::from(turns), OutputBuilder::<_, Built<Part>>::from(heads));
    let mut start = Start::default();
    builder.build(move |_capabilities| {
        move |_frontiers| {
            let (mut turns, mut heads) = (turns.activate(), heads.activate());
            input.for_each(|capability, batches| {
                for batch in batches.drain(..) {
                    let (turn, head) = take(&mut tasks.borrow_mut(), batch, &mut start, traces);
                    turns.session(&capability).give(Rc::new(turn));
                    heads.session(&capability).give(Part::Head(Box::new(head)));
                }
            });
        }
    });
    (turn_stream, head_stream)
}

/// How far the backlog of the start is.
#[derive(Default)]
struct Start {
    /// The log end seen at start is reached.
    reached: bool,
    /// It is, or waiting for it was given up.
    released: bool,
}

fn take(tasks: &mut Tasks, batch: Batch, start: &mut Start, traces: bool) -> (Turn, Head) {
    let Batch { now, idle, hold_over, messages } = batch;
    tasks.set_now(now);
    let mut drafts = Drafts::with_capacity(messages.iter().map(Message::weight).sum());
    let mut barriers = Vec::new();
    let mut touched: Vec<(SourceTopic, i32)> = Vec::new();
    for message in messages {
        match message {
            Message::Records { records, at_us } => {
                for (record, decoded) in records {
                    let (topic, position) = (record.topic, record.position);
                    if !tasks.admit(topic, position) {
                        continue;
                    }
                    if touched.last() != Some(&(topic, position.partition))
                        && !touched.contains(&(topic, position.partition))
                    {
                        touched.push((topic, position.partition));
                    }
                    let at_us = u64::try_from(at_us).unwrap_or(0);
                    let oldest = drafts.counts.oldest_arrival_us.get_or_insert(at_us);
                    *oldest = at_us.min(*oldest);
                    if traces && let Decoded::Events(events) = &decoded {
                        drafts.traced.extend(events.iter().filter_map(|event| traced(event, at_us)));
                    }
                    tasks.record(record, decoded, &mut drafts);
                }
            }
            Message::Began(positions) => {
                let new = positions.into_iter().filter(|next| tasks.begin(*next));
                touched.extend(new.map(|next| (next.topic, next.partition)));
            }
            Message::Outcomes(outcomes) => {
                for outcome in outcomes {
                    tasks.outcome(outcome, &mut drafts);
                }
            }
            Message::AlreadySent(sent) => drafts.steps.push(Step::AlreadySent(sent.into())),
            Message::CaughtUp => {
                tasks.end_hold(true, &mut drafts);
                drafts.steps.push(Step::LogEnd);
                *start = Start { reached: true, released: true };
            }
            Message::Barrier(barrier) => barriers.push(barrier),
            // That a time was opened is all there is to do.
            Message::Wake => {}
        }
    }
    if hold_over && !start.released {
        tasks.end_hold(false, &mut drafts);
        start.released = true;
    }
    let steps = std::mem::take(&mut drafts.steps);
    let positions: Vec<NextOffset> =
        touched.iter().filter_map(|(topic, partition)| tasks.next_offset(*topic, *partition)).collect();
    let Start { reached, released } = *start;
    let turn = Turn { now, steps, holding: !released };
    (turn, Head { now, idle, caught_up: released, reached, drafts, positions, barriers })
}

/// What a commit tells of an event whose trace is recorded.
fn traced(event: &TaskEvent, arrived_us: u64) -> Option<Traced> {
    let parent = TraceParent::parse(event.traceparent.as_deref()?).filter(|parent| parent.sampled)?;
    let task = match &event.body {
        EventBody::Task(change) => Some(change.task),
        EventBody::ReminderSnoozed { task, .. } | EventBody::ReminderDismissed { task, .. } => Some(*task),
        EventBody::UserUpdated { .. } | EventBody::UserErased { .. } => None,
    };
    Some(Traced { parent, event_id: event.id.clone(), type_name: event.type_name.clone(), task, arrived_us })
}
