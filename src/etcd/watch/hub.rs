//! The hub: the task around the machine that says which watch is on which stream.

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
    /// This watch is wanted.
    Open {
        id: WatchId,
        range: Range,
        from: i64,
        mailbox: Mailbox,
    },
    /// Nobody wants it any more.
    Gone {
        id: WatchId,
    },
    FromStream {
        stream: StreamId,
        news: StreamEvent,
    },
    /// Nobody can want a watch any more.
    Shutdown,
}

/// What a stream has to tell.
pub(super) enum StreamEvent {
    /// It is open, to that member, over a connection that stream_limit so many streams.
    Opened {
        member: usize,
        stream_limit: Option<usize>,
    },
    Created {
        id: WatchId,
    },
    /// Not answered; where the answers of a stream cannot be told apart, it is to get no further watch.
    Unanswered {
        id: WatchId,
        is_careful: bool,
    },
    /// It cannot be created on this stream, and nothing is known of it.
    Displaced {
        id: WatchId,
    },
    /// The token of the stream was refused.
    TokenRefused {
        id: WatchId,
        failure: Failure,
    },
    /// The watch is over, and its reader was told so.
    Over {
        id: WatchId,
    },
    /// Its reader was further behind than a mailbox holds.
    Behind {
        id: WatchId,
        heard: Instant,
    },
    Ended {
        failure: Failure,
        heard: Instant,
        traits: PeerTraits,
    },
}

/// What a stream is told.
pub(super) enum StreamCommand {
    Attach { id: WatchId, watch: AttachedWatch },
    Detach { id: WatchId },
}

pub(super) struct WatchHub {
    core: Arc<Core>,
    /// Where it is found.
    place: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
    to_self: UnboundedSender<HubInput>,
    inputs: UnboundedReceiver<HubInput>,
    machine: StreamPlan,
    watches: HashMap<WatchId, AttachedWatch>,
    streams: HashMap<StreamId, OpenStream>,
    /// What is known of members.
    traits: HashMap<usize, PeerTraits>,
    epoch: Instant,
    has_ended: bool,
}

struct OpenStream {
    commands: UnboundedSender<StreamCommand>,
    member: Option<usize>,
}

impl WatchHub {
    pub(super) fn new(
        core: Arc<Core>,
        place: Arc<Mutex<Option<UnboundedSender<HubInput>>>>,
        to_self: UnboundedSender<HubInput>,
        inputs: UnboundedReceiver<HubInput>,
    ) -> Self {
        let (watches, streams, traits) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (machine, epoch) = (StreamPlan::default(), Instant::now());
        Self { core, place, to_self, inputs, machine, watches, streams, traits, epoch, has_ended: false }
    }

    /// Goes on until there is neither a watch nor a stream.
    pub(super) async fn run(mut self) {
        loop {
            // What has come is taken in before anything is done: a watch may be gone again.
            while let Ok(input) = self.inputs.try_recv() {
                self.on(input);
            }
            if self.has_ended {
                return; // its streams end with it
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

    /// Whether nobody has told it anything since, and nobody finds it any more.
    fn is_abandoned(&mut self) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.inputs.is_empty();
        if left && place.as_ref().is_some_and(|place| place.same_channel(&self.to_self)) {
            *place = None;
        }
        left
    }

    fn run_action(&mut self, action: Action) {
        match action {
            Action::Open { stream, elsewhere } => {
                let (commands, command_receiver) = unbounded_channel();
                let traits = self.traits.clone();
                let task = StreamTask::new(
                    self.core.clone(),
                    (stream, elsewhere),
                    command_receiver,
                    self.to_self.clone(),
                    traits,
                );
                tokio::spawn(task.run());
                self.streams.insert(stream, OpenStream { commands, member: None });
            }
            Action::Attach { watch: id, stream } => {
                if let (Some(watch), Some(stream)) = (self.watches.get(&id), self.streams.get(&stream)) {
                    // A stream that has ended tells so, and then what becomes of its watches.
                    let _ = stream.commands.send(StreamCommand::Attach { id, watch: watch.clone() });
                }
            }
            // Without anyone to give it commands its task ends, and the stream with it.
            Action::Close { stream } => drop(self.streams.remove(&stream)),
            Action::Wait { .. } => {}
        }
    }

    fn on(&mut self, input: HubInput) {
        let now = self.epoch.elapsed();
        match input {
            HubInput::Open { id, range, from, mailbox } => {
                self.watches.insert(id, AttachedWatch { range, from, mailbox });
                self.machine.add(now, id);
            }
            HubInput::Gone { id } => {
                self.watches.remove(&id);
                if let Some(stream) = self.machine.remove(now, id).and_then(|stream| self.streams.get(&stream)) {
                    let _ = stream.commands.send(StreamCommand::Detach { id });
                }
            }
            HubInput::FromStream { stream, news } => self.on_stream_event(now, stream, news),
            HubInput::Shutdown => self.has_ended = true,
        }
    }

    fn on_stream_event(&mut self, now: Duration, stream: StreamId, news: StreamEvent) {
        match news {
            StreamEvent::Opened { member, stream_limit } => {
                self.machine.set_stream_limit(stream_limit);
                self.streams.entry(stream).and_modify(|open| open.member = Some(member));
            }
            StreamEvent::Created { id } => self.machine.created(id),
            StreamEvent::Unanswered { id, is_careful } => {
                if is_careful {
                    self.machine.close_to_new(now, stream);
                }
                let again = self.machine.unanswered(now, id);
                let within = CREATION_TIMEOUT.as_millis();
                let why =
                    format!("the watch was not created within {within} ms; trying again in {} ms", again.as_millis());
                self.put(id, Message::Late(Failure::new(Class::TimedOut, why).while_doing("watching")));
            }
            StreamEvent::Displaced { id } => self.machine.displaced(now, id),
            StreamEvent::TokenRefused { id, failure } => {
                if !self.machine.token_refused(now, id) {
                    self.put(id, Message::Canceled(failure));
                    self.machine.remove(now, id);
                    self.watches.remove(&id);
                }
            }
            StreamEvent::Over { id } => {
                self.machine.remove(now, id);
                self.watches.remove(&id);
            }
            StreamEvent::Behind { id, heard } => {
                let failure = Failure::new(Class::Transient, "the reader of the watch is too far behind");
                self.put(id, Message::Lost { failure, heard });
                self.machine.remove(now, id);
                self.watches.remove(&id);
            }
            StreamEvent::Ended { failure, heard, traits } => {
                if let Some(member) = self.streams.remove(&stream).and_then(|open| open.member) {
                    self.traits.insert(member, traits);
                }
                for id in self.machine.ended(stream) {
                    self.put(id, Message::Lost { failure: failure.clone(), heard });
                    self.watches.remove(&id);
                }
            }
        }
    }

    fn put(&self, id: WatchId, message: Message) {
        if let Some(watch) = self.watches.get(&id) {
            watch.mailbox.put(id, message);
        }
    }
}

/// Where the runtime ends, those who watch on another one are told.
impl Drop for WatchHub {
    fn drop(&mut self) {
        self.inputs.close();
        while let Ok(input) = self.inputs.try_recv() {
            self.on(input);
        }
        for id in self.watches.keys() {
            let failure = Failure::new(Class::Transient, "the runtime of the watch has ended").while_doing("watching");
            self.put(*id, Message::Lost { failure, heard: Instant::now() });
        }
    }
}

async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
