//! The dataflow: the only place that names timely and differential.
//!
//! ```text
//! source ──► upsert ─┬─► occurrences ─┐
//!   ▲        (tasks, ├─► reminders  ──┼─► commit ──► Commit
//!   │        ledger) ├─► …          ──┤     │
//!   │                ├─► counts       │     │
//!   │                └────────────────┘     │
//!   └───────── the next time is opened ◄────┘
//! ```
//!
//! One worker on a thread of its own, which parks while there is nothing to do. Time is microseconds, one for each
//! batch that the source polls: `max(last + 1, now)`. Log positions and the clock's reading are data.
//!
//! The source opens a time only when the one before is committed. So a batch is what gathered meanwhile: small while
//! there is little to do, [`Config::commit_events_max`] under load. And since no operator ever runs ahead of the
//! commit, what a commit says must be remembered ([`Tasks::stored`]) is exactly the state that it leaves behind.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Concatenate;
use timely::scheduling::activate::{Activator, SyncActivator};
use timely::worker::{Config as WorkerConfig, Worker};
use topics::Timestamp;
use topics::commit::{Commit, NextOffset, Restored};
use topics::ids::TaskId;
use topics::view::ViewRow;

use crate::config::Config;
use crate::input::{Arrived, Barrier, Input, Message, decode_all};
use crate::state::Effect;
use crate::state::tasks::{Drafts, Tasks};
use crate::views::{self, Follow, Stored, VIEWS, View, Wake};
use topics::clock::Clock;

mod commit;
mod counts;
mod source;
mod upsert;
mod view;

pub use counts::{CountKey, Counts};

type Built<D> = CapacityContainerBuilder<Vec<D>>;

/// Messages that may wait between decoding and dataflow.
const DECODED_MAX: usize = 8;
/// Records of a message: a commit is closed between messages.
const CHUNK_RECORDS_MAX: usize = 250;

/// A running pipeline. It ends when this is dropped or stopped.
#[derive(Debug)]
pub struct Handle {
    inputs: InputSender,
    counts: Counts,
    threads: Vec<JoinHandle<()>>,
}

/// The pipeline has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has stopped")]
pub struct Stopped;

impl Handle {
    /// Sends an input; waits while the pipeline is behind.
    pub fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(input)
    }

    /// Sends an input unless the pipeline is behind: then it is given back.
    pub fn try_send(&self, input: Input) -> Result<(), TrySend> {
        self.inputs.try_send(input)
    }

    /// A way to send from other threads; it answers [`Stopped`] once this handle is gone.
    pub fn sender(&self) -> InputSender {
        self.inputs.clone()
    }

    /// Counts of open tasks, as of the last commit or the one that is on its way.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits until everything sent before, and everything due by now, is committed. Returns the last commit's number.
    pub fn settle(&self) -> Result<u64, Stopped> {
        self.inputs.settle()
    }

    /// Takes no more input, finishes what was sent, and waits for the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // An error says that it has ended already.
        let _ = self.inputs.inputs.send(Arrived::Stop);
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported by the thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends inputs from anywhere.
#[derive(Clone, Debug)]
pub struct InputSender {
    inputs: Sender<Arrived>,
    clock: Clock,
}

/// Why an input was not taken.
#[derive(Debug)]
pub enum TrySend {
    /// The pipeline is behind.
    Full(Input),
    /// The pipeline has ended.
    Stopped,
}

impl InputSender {
    /// Sends an input; waits while the pipeline is behind.
    pub fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(Arrived::now(input, &self.clock)).map_err(|_| Stopped)
    }

    /// Sends an input unless the pipeline is behind.
    pub fn try_send(&self, input: Input) -> Result<(), TrySend> {
        self.inputs.try_send(Arrived::now(input, &self.clock)).map_err(|error| match error {
            TrySendError::Full(Arrived::Input(input, _)) => TrySend::Full(input),
            TrySendError::Full(Arrived::Stop) | TrySendError::Disconnected(_) => TrySend::Stopped,
        })
    }

    /// See [`Handle::settle`].
    pub fn settle(&self) -> Result<u64, Stopped> {
        let (done, wait) = bounded(1);
        self.send(Input::Barrier(Box::new(move |n| {
            // Nobody waits any more.
            let _ = done.send(n);
        })))?;
        wait.recv().map_err(|_| Stopped)
    }
}

/// Starts a pipeline that goes on from `restored` and hands its commits to `commits`, in order, on its own thread:
/// while `commits` does not return, the pipeline waits.
pub fn start(config: Config, clock: Clock, restored: Restored, commits: impl FnMut(Commit) + Send + 'static) -> Handle {
    let (inputs, arrived) = bounded(config.queue_len_max.max(1));
    let (decoded, messages) = bounded(DECODED_MAX);
    let (give_waker, take_waker) = bounded::<SyncActivator>(1);
    let counts = Counts::default();

    let limits = config.limits.clone();
    let decoder = std::thread::Builder::new()
        .name("tasktide-decode".into())
        .spawn(move || {
            // Without a waker the worker is gone already.
            let Ok(waker) = take_waker.recv() else { return };
            decode_all(arrived, decoded, &limits, CHUNK_RECORDS_MAX, || {
                let _ = waker.activate();
            });
        })
        .expect("a thread can be started");

    let inputs = InputSender { inputs, clock: clock.clone() };
    let worker = {
        let counts = counts.clone();
        std::thread::Builder::new()
            .name("tasktide-dataflow".into())
            .spawn(move || {
                run(Parts { config, clock, restored, messages, counts, commits: Box::new(commits) }, &give_waker)
            })
            .expect("a thread can be started")
    };
    Handle { inputs, counts, threads: vec![decoder, worker] }
}

/// What the worker is made of.
struct Parts {
    config: Config,
    clock: Clock,
    restored: Restored,
    messages: Receiver<Message>,
    counts: Counts,
    commits: Box<dyn FnMut(Commit) + Send>,
}

/// Builds the dataflow and works until the inputs end.
fn run(parts: Parts, give_waker: &Sender<SyncActivator>) {
    let allocator = Allocator::Thread(Thread::default());
    let mut worker = Worker::new(WorkerConfig::default(), allocator, Some(Instant::now()));
    build(&mut worker, parts, give_waker);
    while worker.has_dataflows() {
        worker.step_or_park(None);
    }
}

fn build(worker: &mut Worker, parts: Parts, give_waker: &Sender<SyncActivator>) {
    let Parts { config, clock, mut restored, messages, counts, commits } = parts;
    let tasks = Tasks::new(&config, &mut restored);
    let follows = follow_views(&config, &mut restored, &tasks);
    let counted = config.counts.then(|| (counts::totals(&tasks), counts::Overdue::of(&tasks)));
    let tasks = Rc::new(RefCell::new(tasks));
    let gate = Rc::new(Gate::new());

    worker.dataflow::<u64, _, _>(|scope| {
        let batches = source::source(scope, &config, clock, messages, Rc::clone(&gate), give_waker);
        let (turns, heads) = upsert::upsert(batches, Rc::clone(&tasks), config.traces);
        let mut parts = vec![heads];
        if let Some((totals, overdue)) = counted {
            parts.push(counts::count(turns.clone(), totals, overdue, counts, Rc::clone(&gate)));
        }
        for (number, follow) in follows.into_iter().enumerate() {
            parts.push(view::view(turns.clone(), VIEWS[number].spec.name, follow, number, Rc::clone(&gate)));
        }
        commit::commit(scope.concatenate(parts), commit::Assembler::new(&restored, tasks), commits, gate);
    });
}

/// The views as they were.
fn follow_views(config: &Config, restored: &mut Restored, tasks: &Tasks) -> Vec<Box<dyn Follow>> {
    let known = |id: TaskId| {
        let task = tasks.get(id)?;
        Some((Arc::clone(task), tasks.settings(&task.user_id)))
    };
    let rows = views::split(std::mem::take(&mut restored.rows));
    let build = |(number, (view, rows)): (usize, (&View, Vec<Arc<dyn ViewRow>>))| {
        let mut follow = (view.build)(config, number as u8);
        follow.restore(&Stored { rows, actions: &restored.actions, known: &known });
        follow
    };
    VIEWS.iter().zip(rows).enumerate().map(build).collect()
}

/// Keeps one time open at once, and tells the source when there is something to do.
struct Gate {
    opened: Cell<u64>,
    committed: Cell<u64>,
    wakes: Vec<Cell<Wake>>,
    source: OnceCell<Activator>,
}

impl Gate {
    fn new() -> Self {
        // One for each view, and the last for the counts.
        let wakes = (0..=VIEWS.len()).map(|_| Cell::new(Wake::Never)).collect();
        Gate { opened: Cell::new(0), committed: Cell::new(0), wakes, source: OnceCell::new() }
    }

    fn is_open(&self) -> bool {
        self.opened.get() > self.committed.get()
    }

    /// Marks a time as committed, and lets the source open the next one.
    fn close(&self, time: u64) {
        self.committed.set(time);
        if let Some(source) = self.source.get() {
            source.activate();
        }
    }

    /// Whether a view has something to do at `now`.
    fn is_due(&self, now: Timestamp) -> bool {
        self.wakes.iter().any(|wake| match wake.get() {
            Wake::Never => false,
            Wake::At(at) => at <= now,
            Wake::Again => true,
        })
    }

    /// How long until a view has something to do, if that is still to come.
    fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let waits = self.wakes.iter().filter_map(|wait| match wait.get() {
            Wake::At(at) if at > now => Some(at.millis() - now.millis()),
            _ => None,
        });
        waits.min().map(|millis| Duration::from_millis(millis as u64))
    }

    fn has_more(&self) -> bool {
        self.wakes.iter().any(|wake| wake.get() == Wake::Again)
    }
}

/// What the source polled at one time.
struct Batch {
    now: Timestamp,
    /// Nothing waits behind it.
    idle: bool,
    /// Waiting for the log end was given up.
    hold_over: bool,
    messages: Vec<Message>,
}

/// What goes into a commit.
enum Part {
    Head(Box<Head>),
    Effects(Vec<Effect>),
}

/// The upsert's part of a commit.
struct Head {
    now: Timestamp,
    idle: bool,
    caught_up: bool,
    /// The log end seen at start is reached.
    reached: bool,
    drafts: Drafts,
    positions: Vec<NextOffset>,
    barriers: Vec<Barrier>,
}
