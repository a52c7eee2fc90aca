//! Watches that share streams.
//!
//! A [`Watcher`] opens watches and receives their messages in one mailbox. The hub, one task for
//! each [`Etcd`], decides which watch runs on which stream. Each stream has a task, which sends the
//! requests and puts what it receives into the mailboxes.
//!
//! ```text
//! Watcher ── open, close ──▶ WatchHub ── attach, detach ──▶ StreamTask ──▶ etcd
//!    ▲                       (streams.rs)                   (stream/)        │
//!    └────────────── mailbox ◀── messages ───────────────────────┴───────────┘
//! ```
//!
//! - `mod.rs`: what users of this folder hold.
//! - `hub.rs`, `streams.rs` (pure): the hub's task and its machine.
//! - `task.rs`, `stream/` (pure): a stream's task and its machine.
//! - `transport.rs`, `message.rs`: the stream on the connection, and its messages.
//!
//! A stream that ends takes its watches with it. Whoever wants one opens it again, from the
//! revision that it has reached.

mod hub;
pub(crate) mod message;
pub(crate) mod stream;
pub(crate) mod streams;
mod task;
mod transport;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

pub(crate) use self::message::Event;
pub(crate) use self::stream::WatchId;

use self::hub::{HubInput, WatchHub};
use crate::etcd::failure::Failure;
use crate::etcd::{Core, Etcd};

/// Messages that a mailbox holds. A reader that is further behind loses its watch and goes on from
/// the revision that it has reached, so that memory is bounded.
const MAILBOX_LIMIT: usize = 4_096;

/// The keys that are watched: one key, or all keys from `start` (included) to `end` (excluded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first key.
    pub(crate) start: Vec<u8>,
    /// The first key after the range; empty for a single key.
    pub(crate) end: Vec<u8>,
}

/// A message of a watch. Failures are boxed: each mailbox reserves the space of many messages, and few of them are failures.
#[derive(Debug)]
pub(crate) enum Message {
    /// The watch exists. `revision` is that of the member that serves it, which may be behind the
    /// cluster.
    Created { revision: i64 },
    /// Changes, in the order of their revisions. A message holds whole revisions.
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress { revision: i64 },
    /// etcd has not created the watch in time. It is tried again in the background.
    Late(Box<Failure>),
    /// etcd has ended or refused the watch. It is over.
    Canceled(Box<Failure>),
    /// The stream has ended, on which something was last received at `heard`. The watch is over.
    Lost { failure: Box<Failure>, heard: Instant },
}

/// The watches of one [`Etcd`]. Starts the hub when the first watch is opened, and again where the
/// hub has ended.
pub(crate) struct Watches {
    core: Arc<Core>,
    /// The id of the next watch.
    next: AtomicU64,
    /// The way to the hub, if it runs. The hub removes itself when it has nothing to do.
    hub: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
}

impl Watches {
    /// No hub runs yet.
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, next: AtomicU64::new(1), hub: Arc::default() }
    }

    /// Sends an input to the hub, which is started where it does not run. Gives the way to it.
    ///
    /// The lock is held while the input is sent, so that a hub that is about to end either sees the
    /// input or is not found any more (`WatchHub::is_abandoned`).
    fn send(&self, mut input: HubInput) -> UnboundedSender<HubInput> {
        // Nothing panics while the lock is held, so that a poisoned lock still guards a valid
        // state.
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*hub {
            match known.send(input) {
                Ok(()) => return known.clone(),
                // The hub has ended with its runtime.
                Err(unsent) => input = unsent.0,
            }
        }
        let (sender, inputs) = unbounded_channel();
        // The receiver is still in scope.
        let _ = sender.send(input);
        *hub = Some(sender.clone());
        drop(hub);
        let task = WatchHub::new(self.core.clone(), self.hub.clone(), sender.clone(), inputs);
        tokio::spawn(task.run());
        sender
    }
}

/// The last user is gone, so that nobody can open a watch any more: the hub, its streams and the
/// links end. Does not wait for them.
impl Drop for Watches {
    fn drop(&mut self) {
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hub) = hub {
            let _ = hub.send(HubInput::Shutdown);
        }
        self.core.links.shut_down();
    }
}

/// Opens watches and receives their messages.
pub(crate) struct Watcher {
    watches: Arc<Watches>,
    mailbox: Mailbox,
    messages: UnboundedReceiver<(WatchId, Message)>,
}

/// Where the messages of a watch go. Clones fill the same mailbox.
#[derive(Clone)]
struct Mailbox {
    to: UnboundedSender<(WatchId, Message)>,
    queued: Arc<AtomicUsize>,
}

impl Mailbox {
    /// Puts a message. Whether the reader keeps up with [`MAILBOX_LIMIT`]. The message is put in
    /// any case: what the reader has received decides where it resumes. A reader that is gone keeps
    /// up.
    fn put(&self, watch: WatchId, message: Message) -> bool {
        let queued = self.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.to.send((watch, message));
        queued < MAILBOX_LIMIT
    }
}

impl Watcher {
    /// A watcher with an empty mailbox.
    pub(crate) fn new(etcd: &Etcd) -> Self {
        let (to, messages) = unbounded_channel();
        let mailbox = Mailbox { to, queued: Arc::default() };
        Self { watches: etcd.watches.clone(), mailbox, messages }
    }

    /// Opens a watch of the range from this revision on; from now on where it is 0. Its messages
    /// say what becomes of it. Does not wait.
    pub(crate) fn open(&self, range: Range, from: i64) -> Watch {
        let id = self.watches.next.fetch_add(1, Ordering::Relaxed);
        let hub = self.watches.send(HubInput::Open { id, range, from, mailbox: self.mailbox.clone() });
        Watch { id, hub }
    }

    /// The next message of any of its watches.
    ///
    /// # Cancel safety
    /// Dropping it loses no message.
    pub(crate) async fn next(&mut self) -> (WatchId, Message) {
        match self.messages.recv().await {
            Some(message) => {
                self.mailbox.queued.fetch_sub(1, Ordering::Relaxed);
                message
            }
            None => std::future::pending().await, // never: `self` owns a sender
        }
    }

    /// The next message, if one has arrived.
    pub(crate) fn try_next(&mut self) -> Option<(WatchId, Message)> {
        let message = self.messages.try_recv().ok()?;
        self.mailbox.queued.fetch_sub(1, Ordering::Relaxed);
        Some(message)
    }
}

/// An open watch. Dropping it cancels the watch at etcd.
pub(crate) struct Watch {
    id: WatchId,
    hub: UnboundedSender<HubInput>,
}

impl Watch {
    /// The id that its messages carry.
    pub(crate) fn id(&self) -> WatchId {
        self.id
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Where the hub has ended, its streams have ended too.
        let _ = self.hub.send(HubInput::Close(self.id));
    }
}
