use topics::action::ActionState;
use topics::reminder::Channel;

use super::*;
use crate::relay::fixture::{at, create, delivery, delivery_of, task};

const IN_APP: usize = 1;
const NONE: [Uuid; 0] = [];

fn clock() -> Timestamp {
    at("2026-03-30T08:00:01Z")
}

fn lanes(held_max: usize) -> Lanes {
    Lanes::new(Backoff::default(), [4, 4, 4, 1], held_max)
}

fn decided(action: &Action) -> OutboxChange {
    OutboxChange::Decided(Arc::new(action.clone()))
}

fn progress(state: ActionState) -> Progress {
    Progress { state, attempts: 0, last_error: None, next_attempt_at: None, delivered_at: None }
}

fn moved(action: &Action, state: ActionState) -> OutboxChange {
    OutboxChange::Moved { id: action.id, task: action.task, progress: progress(state) }
}

fn retry() -> Verdict {
    Verdict::Retry { error: "away".to_owned(), ambiguous: false, after: None }
}

/// Ids of the calls due in a lane now.
fn due(lanes: &mut Lanes, lane: usize, now: Instant) -> Vec<Uuid> {
    lanes.due(lane, now, None).into_iter().map(|call| call.action.id).collect()
}

#[test]
fn one_task_goes_in_order_and_others_beside_it() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let (a1, a2) = (delivery_of(task(1), 1, Channel::InApp), delivery_of(task(1), 2, Channel::InApp));
    let b = delivery_of(task(2), 3, Channel::InApp);
    let other = delivery_of(task(1), 4, Channel::Webhook);
    for action in [&a1, &a2, &b, &other, &a1] {
        assert_eq!(lanes.change(&decided(action), now, clock()), None);
    }
    assert_eq!(due(&mut lanes, IN_APP, now), [a1.id, b.id]);
    assert_eq!(due(&mut lanes, 2, now), [other.id]);
    assert_eq!(due(&mut lanes, IN_APP, now), NONE);

    let told = lanes.settle(a1.id, &retry(), now, clock()).unwrap();
    assert!(matches!(told, Settled { attempts: 1, result: OutcomeResult::Retry { .. } }));
    assert_eq!(due(&mut lanes, IN_APP, now), NONE, "the second of a task waits for the first");
    let later = now + Duration::from_millis(500);
    assert_eq!(due(&mut lanes, IN_APP, later), [a1.id]);
    let told = lanes.settle(a1.id, &Verdict::Delivered, later, clock()).unwrap();
    assert_eq!(told, Settled { attempts: 2, result: OutcomeResult::Delivered });
    assert_eq!(due(&mut lanes, IN_APP, later), [a2.id]);
    let failed = Verdict::Failed { error: "400".to_owned() };
    let told = lanes.settle(a2.id, &failed, later, clock()).unwrap();
    assert_eq!(told.result, OutcomeResult::Failed { error: "400".into() });
    assert_eq!(lanes.pending().0, [0, 4], "open until the ledger says otherwise");
}

#[test]
fn what_is_told_as_done_is_not_taken_again() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let action = create(1);
    lanes.change(&decided(&action), now, clock());
    assert_eq!(due(&mut lanes, 0, now), [action.id]);
    lanes.settle(action.id, &Verdict::Delivered, now, clock()).unwrap();
    lanes.change(&decided(&action), now, clock());
    lanes.change(&moved(&action, ActionState::Sent), now, clock());
    assert_eq!(due(&mut lanes, 0, now), NONE);
    // Once the pipeline has committed it, the ledger knows.
    assert_eq!(lanes.change(&moved(&action, ActionState::Delivered), now, clock()), None);
    assert!(!lanes.knows(action.id));
}

#[test]
fn what_is_no_longer_wanted_is_dropped_wherever_it_stands() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let of = |n| delivery_of(task(1), n, Channel::InApp);
    let (first, behind, next) = (of(1), of(2), of(3));
    for action in [&first, &behind, &next] {
        lanes.change(&decided(action), now, clock());
    }
    lanes.change(&moved(&behind, ActionState::Cancelled), now, clock());
    assert_eq!(due(&mut lanes, IN_APP, now), [first.id]);
    // An open call cannot be taken back, but it is not repeated.
    lanes.change(&moved(&first, ActionState::Cancelled), now, clock());
    assert_eq!(due(&mut lanes, IN_APP, now), NONE);
    assert_eq!(lanes.settle(first.id, &retry(), now, clock()), None);
    assert_eq!(due(&mut lanes, IN_APP, now), [next.id]);
    lanes.settle(next.id, &retry(), now, clock());
    lanes.change(&moved(&next, ActionState::Cancelled), now, clock());
    assert_eq!(lanes.next_timer(IN_APP), None);
    assert_eq!(lanes.pending(), ([0, 0], None));
}

#[test]
fn a_delivery_that_arrived_though_cancelled_is_told() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let action = delivery(1, Channel::InApp);
    lanes.change(&decided(&action), now, clock());
    due(&mut lanes, IN_APP, now);
    lanes.change(&moved(&action, ActionState::Cancelled), now, clock());
    let told = lanes.settle(action.id, &Verdict::Delivered, now, clock()).unwrap();
    assert_eq!(told.result, OutcomeResult::Delivered);
}

#[test]
fn a_failing_receiver_is_called_less_and_recovers() {
    let now = Instant::now();
    let mut lanes = lanes(1000);
    for n in 0..100 {
        lanes.change(&decided(&delivery(n, Channel::InApp)), now, clock());
    }
    let mut open = due(&mut lanes, IN_APP, now);
    assert_eq!(open.len(), 4);
    for id in open.drain(..) {
        lanes.settle(id, &retry(), now, clock());
    }
    let mut sizes = Vec::new();
    for _ in 0..6 {
        let open = due(&mut lanes, IN_APP, now);
        sizes.push(open.len());
        for id in open {
            lanes.settle(id, &Verdict::Delivered, now, clock());
        }
    }
    assert_eq!(sizes, [1, 2, 4, 4, 4, 4]);
    assert_eq!(due(&mut lanes, 3, now).len(), 0);
}

#[test]
fn mails_go_one_at_a_time() {
    let now = Instant::now();
    let mut lanes = lanes(1000);
    for n in 0..3 {
        lanes.change(&decided(&delivery(n, Channel::Email)), now, clock());
    }
    assert_eq!(due(&mut lanes, 3, now).len(), 1);
    assert_eq!(due(&mut lanes, 3, now).len(), 0);
}

#[test]
fn what_was_restored_waits_as_it_did_and_counts_on() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let action = create(1);
    let waiting =
        Progress { attempts: 6, next_attempt_at: Some(clock().plus_millis(20_000)), ..progress(ActionState::Sent) };
    lanes.take_open(Arc::new(action.clone()), &waiting, now, clock(), false);
    lanes.take_open(Arc::new(create(2)), &progress(ActionState::Failed), now, clock(), false);
    assert_eq!(due(&mut lanes, 0, now), NONE);
    let calls = lanes.due(0, now + Duration::from_secs(20), None);
    assert_eq!((calls.len(), calls[0].attempt), (1, 7));
}

#[test]
fn an_action_older_than_a_day_is_tried_once_more_and_given_up() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let action = create(1);
    let clock = action.decided_at.plus_millis(30 * 3_600_000);
    lanes.take_open(Arc::new(action.clone()), &progress(ActionState::Decided), now, clock, false);
    assert_eq!(due(&mut lanes, 0, now), [action.id]);
    let told = lanes.settle(action.id, &retry(), now, clock).unwrap();
    assert_eq!(told.result, OutcomeResult::Failed { error: "given up after 108000 s: away".into() });
}

/// An operator's retry begins anew, also for an action that is long past its time.
#[test]
fn what_was_given_up_is_tried_again_when_asked() {
    let now = Instant::now();
    let mut lanes = lanes(100);
    let action = create(1);
    let clock = action.decided_at.plus_millis(30 * 3_600_000);
    assert_eq!(lanes.change(&moved(&action, ActionState::Failed), now, clock), None);
    assert_eq!(lanes.change(&moved(&action, ActionState::Decided), now, clock), Some(action.id));
    lanes.begin_read(None);
    lanes.end_read(None, vec![(Arc::new(action.clone()), progress(ActionState::Decided))], false, now, clock);
    assert_eq!(due(&mut lanes, 0, now), [action.id]);
    assert!(matches!(lanes.settle(action.id, &retry(), now, clock).unwrap().result, OutcomeResult::Retry { .. }));
}

#[test]
fn what_does_not_fit_is_read_again_in_order() {
    let now = Instant::now();
    let mut lanes = lanes(4);
    let all: Vec<Action> = (0..10).map(|n| delivery_of(task(n % 2), n, Channel::InApp)).collect();
    for action in &all[..8] {
        lanes.change(&decided(action), now, clock());
    }
    assert_eq!(lanes.pending().0, [0, 8]);
    assert_eq!(lanes.room(IN_APP), 0);
    let open = |range: std::ops::Range<usize>| -> Vec<(Arc<Action>, Progress)> {
        all[range].iter().map(|action| (Arc::new(action.clone()), progress(ActionState::Pending))).collect()
    };
    let mut sent = Vec::new();
    let mut send = |lanes: &mut Lanes, count: usize| {
        while sent.len() < count {
            for id in due(lanes, IN_APP, now) {
                lanes.settle(id, &Verdict::Delivered, now, clock());
                sent.push(all.iter().position(|action| action.id == id).unwrap());
            }
        }
        sent.clone()
    };
    send(&mut lanes, 4);
    assert_eq!(lanes.room(IN_APP), 4);
    lanes.begin_read(Some(IN_APP));
    // Decided while the ledger is read: it must not pass those that were left out.
    lanes.change(&decided(&all[8]), now, clock());
    assert_eq!(due(&mut lanes, IN_APP, now), NONE);
    // What was read is older than this: it closed meanwhile.
    lanes.change(&moved(&all[5], ActionState::Cancelled), now, clock());
    lanes.end_read(Some(IN_APP), open(4..8), true, now, clock());
    send(&mut lanes, 7);
    assert_eq!(lanes.room(IN_APP), 4, "the one decided meanwhile is still left out");
    lanes.begin_read(Some(IN_APP));
    lanes.end_read(Some(IN_APP), open(8..9), true, now, clock());
    assert_eq!(lanes.room(IN_APP), 0);
    lanes.change(&decided(&all[9]), now, clock());
    assert_eq!(send(&mut lanes, 9), [0, 1, 2, 3, 4, 7, 6, 8, 9], "6 comes after 4, of its task");
}
