//! Watches that share streams: who asks for one gets its messages into a mailbox of its own.
//!
//! A hub, one task for each resolver or registrar, keeps which watch is on which stream; each stream has a task, which reads
//! it and puts what it says into the mailboxes. A stream that dies ends its watches: whoever wants one opens it again, from
//! the revision that it has come to, and they meet on the stream that is opened in its stead.

mod hub;
mod message;
mod stream;
mod streams;
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

/// Messages that a mailbox holds at most: a reader that is further behind goes on from the revision that it has come to.
const MAILBOX_LIMIT: usize = 4_096;

/// What is watched: a key, or all keys from `start` up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    /// Empty for a single key.
    pub(crate) end: Vec<u8>,
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Message {
    /// It exists; the revision of the member that serves it.
    Created {
        revision: i64,
    },
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress {
        revision: i64,
    },
    /// Its creation was not answered in time. It is tried again in the background.
    Late(Failure),
    /// etcd has ended or refused it. It is over.
    Canceled(Failure),
    /// Its stream has ended, over which something was last heard then. It is over.
    Lost {
        failure: Failure,
        heard: Instant,
    },
}

/// The watches of one resolver or registrar.
pub(crate) struct Watches {
    core: Arc<Core>,
    next: AtomicU64,
    hub: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
}

impl Watches {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, next: AtomicU64::new(1), hub: Arc::default() }
    }

    /// Tells the hub, which is started where there is none; gives the way to it.
    fn send(&self, mut input: HubInput) -> UnboundedSender<HubInput> {
        // Nothing panics while it is held.
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*hub {
            match known.send(input) {
                Ok(()) => return known.clone(),
                // It went with its runtime.
                Err(unsent) => input = unsent.0,
            }
        }
        let (sender, inputs) = unbounded_channel();
        // The receiver is still here.
        let _ = sender.send(input);
        *hub = Some(sender.clone());
        drop(hub);
        let task = WatchHub::new(self.core.clone(), self.hub.clone(), sender.clone(), inputs);
        tokio::spawn(task.run());
        sender
    }
}

/// The last who could want anything of this etcd is gone.
impl Drop for Watches {
    fn drop(&mut self) {
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hub) = hub {
            let _ = hub.send(HubInput::Shutdown);
        }
        self.core.links.shut_down();
    }
}

/// A mailbox, and the watches whose messages come into it.
pub(crate) struct Watcher {
    watches: Arc<Watches>,
    mailbox: Mailbox,
    messages: UnboundedReceiver<(WatchId, Message)>,
}

/// Where the messages of a watch go.
#[derive(Clone)]
struct Mailbox {
    to: UnboundedSender<(WatchId, Message)>,
    queued: Arc<AtomicUsize>,
}

impl Mailbox {
    /// Whether the reader keeps up. One that is gone does.
    fn put(&self, watch: WatchId, message: Message) -> bool {
        let queued = self.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.to.send((watch, message));
        queued < MAILBOX_LIMIT
    }
}

impl Watcher {
    pub(crate) fn new(etcd: &Etcd) -> Self {
        let (to, messages) = unbounded_channel();
        let mailbox = Mailbox { to, queued: Arc::default() };
        Self { watches: etcd.watches().clone(), mailbox, messages }
    }

    /// Opens a watch of the range from that revision on, or from now on where it is 0. What becomes of it is told by
    /// messages.
    pub(crate) fn open(&self, range: Range, from: i64) -> Watch {
        let id = self.watches.next.fetch_add(1, Ordering::Relaxed);
        let hub = self.watches.send(HubInput::Open { id, range, from, mailbox: self.mailbox.clone() });
        Watch { id, hub }
    }

    /// The next message of any watch. Cancel safe.
    pub(crate) async fn next(&mut self) -> (WatchId, Message) {
        match self.messages.recv().await {
            Some(message) => {
                self.mailbox.queued.fetch_sub(1, Ordering::Relaxed);
                message
            }
            None => std::future::pending().await, // it holds a sender itself
        }
    }

    /// The next message, if it is here.
    pub(crate) fn try_next(&mut self) -> Option<(WatchId, Message)> {
        let message = self.messages.try_recv().ok()?;
        self.mailbox.queued.fetch_sub(1, Ordering::Relaxed);
        Some(message)
    }
}

/// A watch. Dropping it cancels it at etcd.
pub(crate) struct Watch {
    id: WatchId,
    hub: UnboundedSender<HubInput>,
}

impl Watch {
    pub(crate) fn id(&self) -> WatchId {
        self.id
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Where the hub has ended, so have its streams.
        let _ = self.hub.send(HubInput::Gone { id: self.id });
    }
}
