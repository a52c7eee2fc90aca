//! The hub: the task around the machine that says which watch is on which stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::etcd::Core;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::watch::stream::{CREATION, Habits, WatchId};
use crate::etcd::watch::streams::{Action, StreamId, Streams};
use crate::etcd::watch::task::{Attached, StreamTask};
use crate::etcd::watch::{Mailbox, Message, Range};

/// What the hub is told.
pub(super) enum Input {
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
        news: News,
    },
    /// Nobody can want a watch any more.
    Over,
}

/// What a stream has to tell.
pub(super) enum News {
    /// It is open, to that member, over a connection that admits so many streams.
    Opened {
        member: usize,
        admits: Option<usize>,
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
        habits: Habits,
    },
}

/// What a stream is told.
pub(super) enum Order {
    Attach { id: WatchId, watch: Attached },
    Detach { id: WatchId },
}

pub(super) struct Hub {
    core: Arc<Core>,
    /// Where it is found.
    place: Arc<Mutex<Option<UnboundedSender<Input>>>>,
    to_self: UnboundedSender<Input>,
    inputs: UnboundedReceiver<Input>,
    machine: Streams,
    watches: HashMap<WatchId, Attached>,
    streams: HashMap<StreamId, Open>,
    /// What is known of members.
    habits: HashMap<usize, Habits>,
    epoch: Instant,
    is_over: bool,
}

struct Open {
    orders: UnboundedSender<Order>,
    member: Option<usize>,
}

impl Hub {
    pub(super) fn new(
        core: Arc<Core>,
        place: Arc<Mutex<Option<UnboundedSender<Input>>>>,
        to_self: UnboundedSender<Input>,
        inputs: UnboundedReceiver<Input>,
    ) -> Self {
        let (watches, streams, habits) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (machine, epoch) = (Streams::default(), Instant::now());
        Self { core, place, to_self, inputs, machine, watches, streams, habits, epoch, is_over: false }
    }

    /// Goes on until there is neither a watch nor a stream.
    pub(super) async fn run(mut self) {
        loop {
            // What has come is taken in before anything is done: a watch may be gone again.
            while let Ok(input) = self.inputs.try_recv() {
                self.on(input);
            }
            if self.is_over {
                return; // its streams end with it
            }
            match self.machine.action(self.epoch.elapsed()) {
                Action::Wait { until } => {
                    if self.machine.is_idle() && self.is_left() {
                        return;
                    }
                    let wake = (until < Duration::MAX).then(|| self.epoch + until);
                    tokio::select! {
                        input = self.inputs.recv() => input.into_iter().for_each(|input| self.on(input)),
                        () = alarm(wake) => {}
                    }
                }
                action => self.carry_out(action),
            }
        }
    }

    /// Whether nobody has told it anything since, and nobody finds it any more.
    fn is_left(&mut self) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.inputs.is_empty();
        if left && place.as_ref().is_some_and(|place| place.same_channel(&self.to_self)) {
            *place = None;
        }
        left
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Open { stream, elsewhere } => {
                let (orders, ordered) = unbounded_channel();
                let habits = self.habits.clone();
                let task =
                    StreamTask::new(self.core.clone(), (stream, elsewhere), ordered, self.to_self.clone(), habits);
                tokio::spawn(task.run());
                self.streams.insert(stream, Open { orders, member: None });
            }
            Action::Attach { watch: id, stream } => {
                if let (Some(watch), Some(stream)) = (self.watches.get(&id), self.streams.get(&stream)) {
                    // A stream that has ended tells so, and then what becomes of its watches.
                    let _ = stream.orders.send(Order::Attach { id, watch: watch.clone() });
                }
            }
            // Without anyone to give it orders its task ends, and the stream with it.
            Action::Close { stream } => drop(self.streams.remove(&stream)),
            Action::Wait { .. } => {}
        }
    }

    fn on(&mut self, input: Input) {
        let now = self.epoch.elapsed();
        match input {
            Input::Open { id, range, from, mailbox } => {
                self.watches.insert(id, Attached { range, from, mailbox });
                self.machine.wanted(now, id);
            }
            Input::Gone { id } => {
                self.watches.remove(&id);
                if let Some(stream) = self.machine.gone(now, id).and_then(|stream| self.streams.get(&stream)) {
                    let _ = stream.orders.send(Order::Detach { id });
                }
            }
            Input::FromStream { stream, news } => self.hear(now, stream, news),
            Input::Over => self.is_over = true,
        }
    }

    fn hear(&mut self, now: Duration, stream: StreamId, news: News) {
        match news {
            News::Opened { member, admits } => {
                self.machine.admits(admits);
                self.streams.entry(stream).and_modify(|open| open.member = Some(member));
            }
            News::Created { id } => self.machine.created(id),
            News::Unanswered { id, is_careful } => {
                if is_careful {
                    self.machine.close_to_new(now, stream);
                }
                let again = self.machine.unanswered(now, id);
                let within = CREATION.as_millis();
                let why =
                    format!("the watch was not created within {within} ms; trying again in {} ms", again.as_millis());
                self.put(id, Message::Late(Failure::new(Class::TimedOut, why).while_doing("watching")));
            }
            News::Displaced { id } => self.machine.displaced(now, id),
            News::TokenRefused { id, failure } => {
                if !self.machine.token_refused(now, id) {
                    self.put(id, Message::Canceled(failure));
                    self.machine.gone(now, id);
                    self.watches.remove(&id);
                }
            }
            News::Over { id } => {
                self.machine.gone(now, id);
                self.watches.remove(&id);
            }
            News::Behind { id, heard } => {
                let failure = Failure::new(Class::Transient, "the reader of the watch is too far behind");
                self.put(id, Message::Lost { failure, heard });
                self.machine.gone(now, id);
                self.watches.remove(&id);
            }
            News::Ended { failure, heard, habits } => {
                if let Some(member) = self.streams.remove(&stream).and_then(|open| open.member) {
                    self.habits.insert(member, habits);
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
impl Drop for Hub {
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
