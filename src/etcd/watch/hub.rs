//! The hub: the task around the machine that assigns watches to streams.
//!
//! There is at most one hub for each [`Etcd`](crate::etcd::Etcd). It takes inputs of users (open,
//! close) and events of streams, and carries out the actions of [`StreamPlan`]: open a stream,
//! attach a watch, close a stream. It keeps what is needed to place a watch again: its range, its
//! position and its mailbox.
//!
//! It ends
//! - when there is neither a watch nor a stream: the next watch starts another hub;
//! - with its runtime: all watches are told that they are lost;
//! - when all users are gone: its streams end with it.
//!
//! Channels are unbounded. They carry a few messages for each watch, and the machines bound how
//! many watches are in motion.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::etcd::Core;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::watch::stream::{CREATION_TIMEOUT, PeerTraits, WatchId};
use crate::etcd::watch::streams::{Action, StreamId, StreamPlan};
use crate::etcd::watch::task::{AttachedWatch, StreamTask};
use crate::etcd::watch::{Mailbox, Message, Range};

/// What the hub is told.
pub(super) enum HubInput {
    /// A user wants this watch.
    Open { id: WatchId, range: Range, from: i64, mailbox: Mailbox },
    /// Nobody wants this watch any more.
    Close(WatchId),
    /// A stream has something to say.
    FromStream { stream: StreamId, event: StreamEvent },
    /// All users are gone.
    Shutdown,
}

/// What a stream tells the hub.
pub(super) enum StreamEvent {
    /// The stream runs at this member, over a connection that admits this many streams.
    Opened { member: usize, stream_limit: Option<usize> },
    /// etcd has created the watch.
    Created(WatchId),
    /// etcd has not created the watch in time. With `is_careful` the answers of this stream cannot
    /// be told apart, so that it gets no further watch.
    Unanswered { id: WatchId, is_careful: bool },
    /// The watch cannot be created on this stream. Nothing is known about the watch itself.
    Displaced(WatchId),
    /// The token of the stream was refused when the watch was created.
    TokenRefused { id: WatchId, failure: Failure },
    /// The watch has ended, and its reader was told.
    WatchEnded(WatchId),
    /// The reader of the watch is further behind than a mailbox holds.
    ReaderBehind { id: WatchId, heard: Instant },
    /// The stream has ended, with what was learned of its peer.
    StreamEnded { failure: Failure, heard: Instant, traits: PeerTraits },
}

/// What the hub tells a stream.
pub(super) enum StreamCommand {
    /// Create this watch.
    Attach { id: WatchId, watch: AttachedWatch },
    /// Cancel this watch.
    Detach(WatchId),
}

/// The hub's task.
pub(super) struct WatchHub {
    core: Arc<Core>,
    /// Where users find the way to this hub. Cleared by the hub when it ends by itself.
    place: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
    /// The way to this hub, which streams get.
    to_self: UnboundedSender<HubInput>,
    /// The inputs of users and streams.
    inputs: UnboundedReceiver<HubInput>,
    /// Assigns watches to streams.
    machine: StreamPlan,
    /// The watches that users want, with the position of each.
    watches: HashMap<WatchId, AttachedWatch>,
    /// The streams that run.
    streams: HashMap<StreamId, OpenStream>,
    /// What was learned of each member, for the next stream to it.
    traits: HashMap<usize, PeerTraits>,
    /// The start of the time that the machine is given.
    epoch: Instant,
    /// Whether all users are gone.
    is_shut_down: bool,
}

/// A stream that runs.
struct OpenStream {
    /// The way to its task. Dropping it ends the stream.
    commands: UnboundedSender<StreamCommand>,
    /// The member that it runs at, once it is open.
    member: Option<usize>,
}

impl WatchHub {
    /// A hub without watches and streams.
    pub(super) fn new(
        core: Arc<Core>,
        place: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
        to_self: UnboundedSender<HubInput>,
        inputs: UnboundedReceiver<HubInput>,
    ) -> Self {
        let (watches, streams, traits) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (machine, epoch) = (StreamPlan::default(), Instant::now());
        Self { core, place, to_self, inputs, machine, watches, streams, traits, epoch, is_shut_down: false }
    }

    /// Runs until there is neither a watch nor a stream.
    pub(super) async fn run(mut self) {
        loop {
            // All inputs first: a watch may be gone again before it was opened.
            while let Ok(input) = self.inputs.try_recv() {
                self.on(input);
            }
            if self.is_shut_down {
                return; // the streams end with their commands
            }
            match self.machine.action(self.epoch.elapsed()) {
                Action::Wait { until } => {
                    if self.machine.is_idle() && self.is_abandoned() {
                        return;
                    }
                    let wake = (until < Duration::MAX).then(|| self.epoch + until);
                    tokio::select! {
                        input = self.inputs.recv() => input.into_iter().for_each(|input| self.on(input)),
                        () = alarm(wake) => {}
                    }
                }
                action => self.run_action(action),
            }
        }
    }

    /// Whether the hub may end: no input has arrived and no user finds it any more.
    ///
    /// A user sends under the lock of `place`. So either its input is seen here, or it finds no hub
    /// and starts another one.
    fn is_abandoned(&mut self) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.inputs.is_empty();
        if left && place.as_ref().is_some_and(|place| place.same_channel(&self.to_self)) {
            *place = None;
        }
        left
    }

    /// Carries out one action.
    fn run_action(&mut self, action: Action) {
        match action {
            Action::Open { stream, other_member } => {
                let (commands, command_receiver) = unbounded_channel();
                let traits = self.traits.clone();
                let task = StreamTask::new(
                    self.core.clone(),
                    (stream, other_member),
                    command_receiver,
                    self.to_self.clone(),
                    traits,
                );
                tokio::spawn(task.run());
                self.streams.insert(stream, OpenStream { commands, member: None });
            }
            Action::Attach { watch: id, stream } => {
                if let (Some(watch), Some(stream)) = (self.watches.get(&id), self.streams.get(&stream)) {
                    // A stream that has ended tells so by an event, and then its watches are
                    // handled.
                    let _ = stream.commands.send(StreamCommand::Attach { id, watch: watch.clone() });
                }
            }
            // Without the sender of its commands the task ends, and with it the stream.
            Action::Close { stream } => drop(self.streams.remove(&stream)),
            Action::Wait { .. } => {}
        }
    }

    /// Takes one input.
    fn on(&mut self, input: HubInput) {
        let now = self.epoch.elapsed();
        match input {
            HubInput::Open { id, range, from, mailbox } => {
                self.watches.insert(id, AttachedWatch { range, from, mailbox });
                self.machine.add(now, id);
            }
            HubInput::Close(id) => {
                self.watches.remove(&id);
                if let Some(stream) = self.machine.remove(now, id).and_then(|stream| self.streams.get(&stream)) {
                    let _ = stream.commands.send(StreamCommand::Detach(id));
                }
            }
            HubInput::FromStream { stream, event } => self.on_stream_event(now, stream, event),
            HubInput::Shutdown => self.is_shut_down = true,
        }
    }

    /// Takes one event of a stream: tells the machine, and puts a message into the mailbox where
    /// the reader must know.
    ///
    /// Events of a stream that has ended meanwhile do no harm: the machine ignores watches that it
    /// does not know.
    fn on_stream_event(&mut self, now: Duration, stream: StreamId, event: StreamEvent) {
        match event {
            StreamEvent::Opened { member, stream_limit } => {
                self.machine.set_stream_limit(stream_limit);
                self.streams.entry(stream).and_modify(|open| open.member = Some(member));
            }
            StreamEvent::Created(id) => self.machine.created(id),
            StreamEvent::Unanswered { id, is_careful } => {
                if is_careful {
                    self.machine.close_to_new(now, stream);
                }
                let again = self.machine.unanswered(now, id);
                let within = CREATION_TIMEOUT.as_millis();
                let why = format!("the watch was not created within {within} ms; retrying in {} ms", again.as_millis());
                let failure = Failure::new(Class::TimedOut, why).while_doing("watching");
                self.put(id, Message::Late(Box::new(failure)));
            }
            StreamEvent::Displaced(id) => self.machine.displaced(now, id),
            StreamEvent::TokenRefused { id, failure } => {
                if !self.machine.token_refused(now, id) {
                    self.put(id, Message::Canceled(Box::new(failure)));
                    self.machine.remove(now, id);
                    self.watches.remove(&id);
                }
            }
            StreamEvent::WatchEnded(id) => {
                self.machine.remove(now, id);
                self.watches.remove(&id);
            }
            StreamEvent::ReaderBehind { id, heard } => {
                let failure = Failure::new(Class::Transient, "the reader of the watch is too far behind");
                self.put(id, Message::Lost { failure: Box::new(failure), heard });
                self.machine.remove(now, id);
                self.watches.remove(&id);
            }
            StreamEvent::StreamEnded { failure, heard, traits } => {
                if let Some(member) = self.streams.remove(&stream).and_then(|open| open.member) {
                    self.traits.insert(member, traits);
                }
                for id in self.machine.ended(stream) {
                    self.put(id, Message::Lost { failure: Box::new(failure.clone()), heard });
                    self.watches.remove(&id);
                }
            }
        }
    }

    /// Puts a message into the mailbox of a watch, if it is still wanted. That its reader is behind
    /// is noticed by the stream's task, not here: the hub's messages are few.
    fn put(&self, id: WatchId, message: Message) {
        if let Some(watch) = self.watches.get(&id) {
            watch.mailbox.put(id, message);
        }
    }
}

/// Also runs when the runtime ends. Readers on other runtimes are told that their watches are lost.
impl Drop for WatchHub {
    fn drop(&mut self) {
        self.inputs.close();
        while let Ok(input) = self.inputs.try_recv() {
            self.on(input);
        }
        for id in self.watches.keys() {
            let failure = Failure::new(Class::Transient, "the runtime of the watch has ended").while_doing("watching");
            self.put(*id, Message::Lost { failure: Box::new(failure), heard: Instant::now() });
        }
    }
}

/// Waits until a time; forever where there is none.
async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
