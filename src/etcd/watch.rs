//! One watch stream, its messages told apart.

use std::time::Duration;

use etcd_client::{ResponseHeader, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::{Etcd, MAX_MESSAGE, Turn, bounded};

/// A watch of one range. Dropping it ends it at etcd.
pub(crate) struct Watch {
    etcd: Etcd,
    turn: Turn,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    deadline: Duration,
}

/// What a watch says.
pub(crate) enum Message {
    /// It exists; the revision of the member that serves it.
    Created {
        revision: i64,
    },
    Events(Events),
    /// No events. With a revision only where everything before it has been sent: the answer to a probe of some etcd
    /// releases runs ahead of the events.
    Progress {
        revision: Option<i64>,
    },
    Canceled(Failure),
}

/// The events of one message.
pub(crate) struct Events(WatchResponse);

impl Events {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        // A deletion resets a key's version to zero (etcd's rpc.proto). The event's type is not asked: for a type that
        // it does not know, etcd-client panics.
        self.0.events().iter().filter_map(|event| event.kv()).map(|pair| {
            let value = (pair.version() > 0).then(|| pair.value());
            Event { revision: pair.mod_revision(), key: pair.key(), lease: pair.lease(), value }
        })
    }
}

/// One change of one key.
pub(crate) struct Event<'a> {
    pub(crate) revision: i64,
    pub(crate) key: &'a [u8],
    /// The lease that a put gave it.
    pub(crate) lease: i64,
    /// What was put; none where it was deleted.
    pub(crate) value: Option<&'a [u8]>,
}

impl Etcd {
    /// Opens a watch of the range from that revision on.
    pub(crate) async fn watch(&self, start: &[u8], end: &[u8], from: i64) -> Result<Watch, Failure> {
        let options = WatchOptions::new().with_range(end).with_start_revision(from).with_progress_notify();
        self.open_watch(start, options, self.request_timeout()).await
    }

    /// Opens a watch of one key from now on; further ones may join it.
    pub(crate) async fn watch_key(&self, key: &[u8], deadline: Duration) -> Result<Watch, Failure> {
        self.open_watch(key, WatchOptions::new(), deadline).await
    }

    async fn open_watch(&self, start: &[u8], options: WatchOptions, deadline: Duration) -> Result<Watch, Failure> {
        let doing = format!("watching {}", String::from_utf8_lossy(start));
        let mut turn = self.turn();
        let open = async {
            let mut watcher = self.client(&mut turn).await?.watch_client().max_decoding_message_size(MAX_MESSAGE);
            watcher.watch(start, Some(options)).await.map_err(Failure::from)
        };
        match bounded(deadline, open).await {
            Ok(stream) => {
                let (requests, responses) = stream.split();
                Ok(Watch { etcd: self.clone(), turn, requests, responses, deadline })
            }
            Err(failure) => {
                let failure = self.of_client(failure, turn.generation);
                self.blame(&turn, &failure);
                Err(failure.while_doing(&doing, &turn.member))
            }
        }
    }
}

impl Watch {
    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        let response = match self.responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(self.broken(Failure::new(Class::Transient, "etcd ended the stream"))),
            Err(error) => {
                let failure = Failure::from(error);
                return Err(self.broken(failure));
            }
        };
        let revision = response.header().map_or(0, ResponseHeader::revision);
        Ok(if response.compact_revision() > 0 {
            let reason = format!("compacted up to {}", response.compact_revision());
            Message::Canceled(self.named(Failure::new(Class::Revision, reason)))
        } else if response.canceled() {
            Message::Canceled(self.broken(Failure::from_reason(response.cancel_reason())))
        } else if response.created() {
            Message::Created { revision }
        } else if response.events().is_empty() {
            // The answer to a probe carries no watch's id.
            Message::Progress { revision: (response.watch_id() >= 0).then_some(revision) }
        } else {
            Message::Events(Events(response))
        })
    }

    /// Watches another key over the same stream, from now on. Each is answered with `Created`, in their order.
    pub(crate) async fn also(&mut self, key: &[u8]) -> Result<(), Failure> {
        let sent = timeout(self.deadline, self.requests.watch(key, None)).await;
        self.sent(sent)
    }

    /// Asks for a message without events.
    pub(crate) async fn probe(&mut self) -> Result<(), Failure> {
        let sent = timeout(self.deadline, self.requests.request_progress()).await;
        self.sent(sent)
    }

    fn sent(&self, sent: Result<Result<(), etcd_client::Error>, Elapsed>) -> Result<(), Failure> {
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken(Failure::from(error))),
            Err(_) => Err(self.broken(Failure::timed_out(self.deadline))),
        }
    }

    /// The member was silent for too long: the next stream goes elsewhere.
    pub(crate) fn silent(&self) -> Failure {
        self.broken(Failure::new(Class::Transient, "the watch was silent"))
    }

    fn broken(&self, failure: Failure) -> Failure {
        let failure = self.named(self.etcd.of_client(failure, self.turn.generation));
        if failure.elsewhere {
            self.etcd.give_up(self.turn.generation);
        }
        failure
    }

    fn named(&self, failure: Failure) -> Failure {
        failure.while_doing("watching", &self.turn.member)
    }
}
