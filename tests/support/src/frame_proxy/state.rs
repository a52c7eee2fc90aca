//! What the proxy's owner and its connections share: rules, counts, and what waits.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queue::Gate;
use super::rule::{Action, Direction, Rule};

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) accepted: usize,
    pub(super) connected: usize,
    methods: HashMap<String, Count>,
    /// The streams that are open, by their number.
    open: HashSet<usize>,
    opened: usize,
    rules: Vec<InForce>,
    /// Lets each message that waits go on, in the order in which they came.
    waiting: Vec<oneshot::Sender<()>>,
    /// The messages of clients that waited, and have gone on to the target.
    pub(super) late: Vec<Late>,
}

/// A message of a client that a rule held or delayed, and that has gone on to the target since.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Late {
    /// Without its prefix.
    pub message: Bytes,
    /// When it went on.
    pub at: std::time::Instant,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    pub(super) opened: usize,
    pub(super) open: usize,
}

#[derive(Debug)]
struct InForce {
    rule: Rule,
    /// These alone, for a rule about the streams that were open.
    streams: Option<HashSet<usize>>,
}

/// What becomes of one message.
#[derive(Debug)]
pub(super) enum Verdict {
    Pass,
    Drop,
    Wait(Gate),
}

impl State {
    pub(super) fn count(&self, method: &str) -> Count {
        self.methods.get(method).copied().unwrap_or_default()
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, rule: Rule) {
        let mut state = self.state();
        let streams = rule.open_now.then(|| state.open.clone());
        state.rules.push(InForce { rule, streams });
    }

    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(()); // its stream may have ended
        }
    }
}

/// One accepted connection, as it is counted.
#[derive(Debug)]
pub(super) struct Connection(Arc<Shared>);

impl Connection {
    pub(super) fn accepted(shared: &Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.accepted += 1;
        state.connected += 1;
        Self(Arc::clone(shared))
    }

    pub(super) fn open(&self, method: &str) -> Stream {
        let mut state = self.0.state();
        let number = state.opened;
        state.opened += 1;
        state.open.insert(number);
        let count = state.methods.entry(method.to_owned()).or_default();
        count.opened += 1;
        count.open += 1;
        Stream { shared: Arc::clone(&self.0), number, method: method.to_owned() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.state().connected -= 1;
    }
}

/// One stream of it.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    number: usize,
    method: String,
}

impl Stream {
    /// What becomes of a message that has come; `None` for what has no bytes.
    pub(super) fn judge(&self, direction: Direction, message: Option<&[u8]>) -> Verdict {
        let mut state = self.shared.state();
        let rule = state.rules.iter().find(|in_force| {
            in_force.streams.as_ref().is_none_or(|streams| streams.contains(&self.number))
                && in_force.rule.matches(&self.method, direction, message)
        });
        let until = match rule.map(|in_force| in_force.rule.action) {
            None => return Verdict::Pass,
            Some(Action::Drop) => return Verdict::Drop,
            Some(Action::Hold) => None,
            Some(Action::Delay(by)) => Some(Instant::now() + by),
        };
        let (release, released) = oneshot::channel();
        if state.waiting.len() == state.waiting.capacity() {
            state.waiting.retain(|waiting| !waiting.is_closed()); // delays that are over
        }
        state.waiting.push(release);
        Verdict::Wait(Gate { until, released })
    }
}

impl Stream {
    /// A message that waited goes on now.
    pub(super) fn goes_on(&self, direction: Direction, message: &Bytes) {
        if direction == Direction::Requests {
            self.shared.state().late.push(Late { message: message.clone(), at: Instant::now().into_std() });
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.open.remove(&self.number);
        if let Some(count) = state.methods.get_mut(&self.method) {
            count.open -= 1;
        }
    }
}
