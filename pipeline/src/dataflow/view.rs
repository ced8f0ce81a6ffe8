//! The operator of a view: feeds its [`Follow`] and lets it act once the frontier has passed.

use std::collections::VecDeque;
use std::rc::Rc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::{Built, Gate, Part};
use crate::state::{Effect, Turn};
use crate::views::Follow;

/// A time whose steps were taken in.
struct Pending {
    capability: Capability<u64>,
    turn: Rc<Turn>,
    effects: Vec<Effect>,
}

/// Builds the operator of the view with this number. It holds one capability for each open time, whatever the view
/// has scheduled: when that comes due, the source opens a time for it.
pub(super) fn view<'scope>(
    turns: StreamVec<'scope, u64, Rc<Turn>>,
    name: &str,
    mut follow: Box<dyn Follow>,
    number: usize,
    gate: Rc<Gate>,
) -> StreamVec<'scope, u64, Part> {
    turns.unary_frontier::<Built<Part>, _, _, _>(Pipeline, name, move |_, _| {
        let mut pending: VecDeque<Pending> = VecDeque::new();
        move |(input, frontier), out| {
            input.for_each(|capability, turns| {
                for turn in turns.drain(..) {
                    let mut effects = Vec::new();
                    for step in &turn.steps {
                        follow.step(step, &mut effects);
                    }
                    let capability = capability.retain_least(0).expect("every turn has a time");
                    pending.push_back(Pending { capability, turn, effects });
                }
            });
            while pending.front().is_some_and(|next| !frontier.less_equal(next.capability.time())) {
                let Some(Pending { capability, turn, mut effects }) = pending.pop_front() else { return };
                gate.wakes[number].set(follow.settle(turn.now, turn.holding, &mut effects));
                if !effects.is_empty() {
                    out.session(&capability).give(Part::Effects(effects));
                }
            }
        }
    })
}
