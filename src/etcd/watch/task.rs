//! The task of one watch stream, around the machine in `stream/`.
//!
//! The task opens the stream, sends the requests that the machine asks for, and gives the machine
//! the header of each message. The machine says which watch the message is for, and the task turns
//! it into a [`Message`] for that watch's mailbox:
//!
//! | message of etcd | what the watch is told | what the hub is told |
//! |---|---|---|
//! | created | `Created` | `Created` |
//! | canceled when it was created, because of the token | nothing yet | `TokenRefused` |
//! | canceled otherwise | `Canceled` | `WatchEnded` |
//! | without events | `Progress` | |
//! | with events | `Events` | |
//!
//! The task ends when the hub drops the sender of its commands, when the stream fails, or when the
//! machine says that the stream is dead. Then the hub is told by `StreamEnded`, and it tells the
//! watches. A watch whose mailbox is full is detached: its reader resumes later.
//!
//! A dead stream is told from a dead connection by a PING: in the first case only the stream ends,
//! in the second one the connection is closed, so that requests leave it too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use crate::etcd::Core;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::MemberLink;
use crate::etcd::watch::hub::{HubInput, StreamCommand, StreamEvent};
use crate::etcd::watch::message::{CancelRequest, CreateRequest, ProgressRequest, RequestUnion, WatchResponse};
use crate::etcd::watch::stream::{Action, MessageHeader, PeerTraits, Recipient, Request, StreamMachine, WatchId};
use crate::etcd::watch::streams::StreamId;
use crate::etcd::watch::transport::WatchTransport;
use crate::etcd::watch::{Mailbox, Message, Range};

/// A watch with the position that it has reached.
#[derive(Clone)]
pub(super) struct AttachedWatch {
    /// What is watched.
    pub(super) range: Range,
    /// The revision at which it starts; later the last revision that its reader was told.
    pub(super) from: i64,
    /// Where its messages go.
    pub(super) mailbox: Mailbox,
}

/// The task of one stream.
pub(super) struct StreamTask {
    core: Arc<Core>,
    /// The stream, as the hub names it.
    id: StreamId,
    /// Whether it is opened at another member than the one in use.
    other_member: bool,
    /// The commands of the hub. The stream ends when the hub drops its sender.
    commands: UnboundedReceiver<StreamCommand>,
    /// The way to the hub.
    hub: UnboundedSender<HubInput>,
    /// What is known of each member.
    traits: HashMap<usize, PeerTraits>,
    /// The watches on this stream.
    watches: HashMap<WatchId, AttachedWatch>,
    /// The start of the time that the machine is given.
    epoch: Instant,
}

/// Why the stream ends.
enum StreamEnd {
    /// The hub does not want it any more.
    Closed,
    /// It has failed.
    Failed(Failure),
}

impl StreamTask {
    /// A task for a stream that is not open yet.
    pub(super) fn new(
        core: Arc<Core>,
        (id, other_member): (StreamId, bool),
        commands: UnboundedReceiver<StreamCommand>,
        hub: UnboundedSender<HubInput>,
        traits: HashMap<usize, PeerTraits>,
    ) -> Self {
        Self { core, id, other_member, commands, hub, traits, watches: HashMap::new(), epoch: Instant::now() }
    }

    /// Opens the stream, serves it, and tells the hub how it ended. A stream that the hub has
    /// closed tells nothing: the hub knows.
    pub(super) async fn run(mut self) {
        let (heard, traits, failure) = match self.begin().await {
            Ok((link, token)) => {
                let known = self.traits.get(&link.member()).copied().unwrap_or(PeerTraits::UNKNOWN);
                let mut machine = StreamMachine::new(self.epoch.elapsed(), known);
                self.send(StreamEvent::Opened { member: link.member(), stream_limit: link.stream_limit() });
                let asked = Instant::now();
                match self.serve(&mut machine, &link, token).await {
                    StreamEnd::Closed => return,
                    StreamEnd::Failed(failure) => {
                        let failure = self.core.on_failure(&link, asked, failure).at(link.name());
                        (self.epoch + machine.heard(), machine.traits(), failure)
                    }
                }
            }
            Err(failure) => (self.epoch, PeerTraits::UNKNOWN, failure),
        };
        let failure = failure.while_doing("watching");
        self.send(StreamEvent::StreamEnded { failure, heard, traits });
    }

    /// The link and the token for the stream: at the member in use, or at another one where the hub
    /// asks for it and there is one.
    async fn begin(&self) -> Result<(MemberLink, u64), Failure> {
        let (link, token) = self.core.stream_link_and_token().await?;
        if self.other_member
            && let Some(other) = self.core.link_elsewhere(&link).await
        {
            let token = self.core.token_for(&other).await?;
            return Ok((other, token));
        }
        Ok((link, token))
    }

    /// Sends an event to the hub. Where the hub is gone, nobody needs it.
    fn send(&self, event: StreamEvent) {
        let _ = self.hub.send(HubInput::FromStream { stream: self.id, event });
    }

    /// Runs the stream until it ends: carries out all actions of the machine, then waits for a
    /// message, a command or the machine's timer.
    async fn serve(&mut self, machine: &mut StreamMachine, link: &MemberLink, token: u64) -> StreamEnd {
        let mut transport = WatchTransport::new(link);
        let alarm = sleep_until(self.epoch);
        tokio::pin!(alarm);
        loop {
            let wake = loop {
                match machine.action(self.epoch.elapsed()) {
                    Action::Send(request) => self.send_request(&mut transport, request),
                    Action::Ping => link.ping(),
                    Action::Unanswered { watch, since } => {
                        if link.is_dead_since(self.epoch + since) {
                            return StreamEnd::Failed(self.dead(link));
                        }
                        self.watches.remove(&watch);
                        self.send(StreamEvent::Unanswered { id: watch, is_careful: machine.is_careful() });
                    }
                    Action::Displaced(watch) => {
                        self.watches.remove(&watch);
                        self.send(StreamEvent::Displaced(watch));
                    }
                    Action::Dead { asked } => {
                        if link.is_dead_since(self.epoch + asked) {
                            return StreamEnd::Failed(self.dead(link));
                        }
                        let silent = self.epoch.elapsed().saturating_sub(machine.heard()).as_millis();
                        let why = format!("the watch stream was silent for {silent} ms");
                        return StreamEnd::Failed(Failure::new(Class::TimedOut, why));
                    }
                    Action::Restart => {
                        let why = "the peer chooses the ids of watches: another stream is opened";
                        return StreamEnd::Failed(Failure::new(Class::Changed, why));
                    }
                    Action::Wait { until } => break until,
                }
            };
            let wake = self.epoch + wake.min(self.epoch.elapsed() + Duration::from_secs(3_600));
            // Most messages only move the wake-up on. The timer is not set again before it fires.
            if alarm.deadline() > wake || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                message = transport.next() => match message {
                    Ok(message) => self.on(machine, message, token),
                    Err(failure) => return StreamEnd::Failed(failure),
                },
                order = self.commands.recv() => match order {
                    Some(StreamCommand::Attach { id, watch }) => {
                        self.watches.insert(id, watch);
                        machine.attach(id);
                    }
                    Some(StreamCommand::Detach(id)) => {
                        self.watches.remove(&id);
                        machine.detach(id);
                    }
                    None => return StreamEnd::Closed,
                },
                () = &mut alarm => {}
            }
        }
    }

    /// Closes a dead connection, with everything that runs over it. Gives the failure of this
    /// stream.
    fn dead(&self, link: &MemberLink) -> Failure {
        let why = "nothing was received over the connection, not even the answer to a PING";
        self.core.links.close(link, why);
        Failure::new(Class::TimedOut, why)
    }

    /// Sends a request of the machine. A creation of a watch that is gone is not sent: the machine
    /// gets its `detach` next.
    ///
    /// A probe watches from now on: it brings no event, and etcd reads no history for it. The position of a quiet watch may be
    /// long ago.
    fn send_request(&self, transport: &mut WatchTransport, request: Request) {
        transport.send(match request {
            Request::Create { watch, id } => {
                let Some(AttachedWatch { range, from, .. }) = self.watches.get(&watch) else { return };
                create(range, *from, id)
            }
            Request::Probe { watch, id } => {
                let Some(AttachedWatch { range, .. }) = self.watches.get(&watch) else { return };
                create(range, 0, id)
            }
            Request::Cancel(id) => RequestUnion::Cancel(CancelRequest { watch_id: id }),
            Request::Progress => RequestUnion::Progress(ProgressRequest {}),
        });
    }

    /// Takes one message: gives its header to the machine, and the message to its watch.
    ///
    /// The position of the watch moves with what its reader was told. A watch that is placed on
    /// another stream starts there, so that no event is missed and none is told twice.
    fn on(&mut self, machine: &mut StreamMachine, message: WatchResponse, token: u64) {
        let cancellation = message.cancellation();
        let heading =
            MessageHeader { id: message.watch_id, created: message.created, canceled: cancellation.is_some() };
        let Recipient::Watch(id) = machine.on(self.epoch.elapsed(), heading) else { return };
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let revision = message.revision();
        let keeps_up = match cancellation {
            Some(failure) => {
                let failure = self.core.reclassify_denied(failure).while_doing("watching");
                let watch = self.watches.remove(&id);
                if message.created && self.core.tokens.refused(token, &failure) {
                    return self.send(StreamEvent::TokenRefused { id, failure });
                }
                if let Some(watch) = watch {
                    watch.mailbox.put(id, Message::Canceled(Box::new(failure)));
                }
                return self.send(StreamEvent::WatchEnded(id));
            }
            None if message.created => {
                watch.mailbox.put(id, Message::Created { revision });
                return self.send(StreamEvent::Created(id));
            }
            None if message.events.is_empty() => {
                watch.from = watch.from.max(revision);
                watch.mailbox.put(id, Message::Progress { revision })
            }
            None => {
                let events = message.into_events();
                watch.from = events.iter().map(|event| event.revision).fold(watch.from, i64::max);
                watch.mailbox.put(id, Message::Events(events))
            }
        };
        if !keeps_up {
            self.watches.remove(&id);
            machine.detach(id);
            self.send(StreamEvent::ReaderBehind { id, heard: Instant::now() });
        }
    }
}

/// A request to create a watch. With a start revision it asks for progress notifications, so that a
/// watch without events can be resumed from a recent revision and not from a compacted one.
fn create(range: &Range, from: i64, id: i64) -> RequestUnion {
    RequestUnion::Create(CreateRequest {
        key: range.start.clone(),
        range_end: range.end.clone(),
        start_revision: from,
        progress_notify: from > 0,
        watch_id: id,
    })
}
