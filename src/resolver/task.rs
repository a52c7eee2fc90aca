//! The task around the watch machine: action → await → input, and the view that everyone reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::State;
use super::snapshot::{Entry, Snapshot, diff};
use super::watch::{Action, Change, Event, Input, Machine, Standing, Trouble};
use crate::codec::Codec;
use crate::error::Error;
use crate::etcd::{Class, Etcd, Failure, Message, Watch};
use crate::target::Target;

/// Records that cannot be read, of one step of the service, that are reported one by one.
const SHOWN: usize = 10;

/// What is known of a service: the latest, for any number of readers.
#[derive(Clone)]
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) state: State,
    pub(super) error: Option<Error>,
}

impl View {
    pub(super) fn unresolved() -> Self {
        Self { snapshot: Arc::default(), state: State::Unresolved, error: None }
    }
}

pub(super) struct Task {
    etcd: Etcd,
    codec: Arc<dyn Codec>,
    target: Target,
    range: (Vec<u8>, Vec<u8>),
    machine: Machine,
    stream: Option<Watch>,
    epoch: Instant,
    error: Option<Error>,
    /// What kind of failure was reported since all was well.
    reported: Option<Class>,
    views: watch::Sender<View>,
}

impl Task {
    pub(super) fn new(etcd: Etcd, codec: Arc<dyn Codec>, target: Target, views: watch::Sender<View>) -> Self {
        let range = target.range();
        let machine = Machine::new(fastrand::u64(..));
        Self {
            etcd,
            codec,
            target,
            range,
            machine,
            stream: None,
            epoch: Instant::now(),
            error: None,
            reported: None,
            views,
        }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let input = self.act(self.machine.action()).await;
            let changed = self.machine.on(self.epoch.elapsed(), input);
            self.publish(changed);
        }
    }

    async fn act(&mut self, action: Action) -> Input {
        match action {
            Action::List => self.list().await,
            Action::Open { from } => {
                self.stream = None;
                match self.etcd.watch(&self.range.0, &self.range.1, from).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        Input::Opened
                    }
                    Err(failure) => self.failed(failure),
                }
            }
            Action::Verify => match self.etcd.revision(&self.range.0, &self.range.1).await {
                Ok(revision) => Input::Verified { revision },
                Err(failure) => self.failed(failure),
            },
            Action::Refresh => match self.etcd.refresh_token().await {
                Ok(()) => Input::Refreshed,
                Err(failure) => self.failed(failure),
            },
            Action::Probe => match &mut self.stream {
                Some(stream) => match stream.probe().await {
                    Ok(()) => Input::Probed,
                    Err(failure) => self.failed(failure),
                },
                None => Input::Failed(Trouble::Transient),
            },
            Action::Read { until } => self.read(until).await,
            Action::Sleep { until } => {
                if let Some(stream) = self.stream.take() {
                    // A stream that is given up without having failed was silent.
                    let failure = stream.silent();
                    self.failed(failure);
                    self.publish(false);
                }
                sleep_until(self.epoch + until).await;
                Input::Tick
            }
        }
    }

    async fn list(&mut self) -> Input {
        let mut entries = Vec::new();
        let (codec, target) = (&*self.codec, &self.target);
        let listed = self.etcd.list(&self.range.0, &self.range.1, |key, value| {
            entries.extend(read(codec, target, key, value));
        });
        match listed.await {
            Ok(revision) => {
                if self.stream.is_some() {
                    self.reported = None;
                }
                Input::Listed { revision, entries }
            }
            Err(failure) => self.failed(failure),
        }
    }

    async fn read(&mut self, until: Duration) -> Input {
        let Some(stream) = &mut self.stream else { return Input::Failed(Trouble::Transient) };
        match timeout_at(self.epoch + until, stream.next()).await {
            Err(_) => Input::Tick,
            Ok(Ok(Message::Created { revision })) => Input::Created { revision },
            Ok(Ok(Message::Progress { revision })) => Input::Progress { revision },
            Ok(Ok(Message::Events(events))) => {
                let event = |event: crate::etcd::Event<'_>| {
                    let change = match event.value {
                        Some(value) => Change::Put(read(&*self.codec, &self.target, event.key, value)?),
                        None => Change::Delete(event.key.into()),
                    };
                    Some(Event { revision: event.revision, change })
                };
                Input::Events(events.iter().filter_map(event).collect())
            }
            Ok(Ok(Message::Canceled(failure))) => match self.failed(failure) {
                Input::Failed(trouble) => Input::Canceled(trouble),
                input => input,
            },
            Ok(Err(failure)) => self.failed(failure),
        }
    }

    /// Remembers and reports a failure; what it means to the machine.
    fn failed(&mut self, failure: Failure) -> Input {
        let class = failure.class;
        // After a verification that failed, or a silent stream, the stream is still there and of no more use.
        if !matches!(self.machine.action(), Action::List) {
            self.stream = None;
        }
        let error = failure.into_error();
        if self.reported.is_some_and(|reported| reported.is_like(class)) || class == Class::Revision {
            tracing::debug!(%error, "etcd failed");
        } else {
            tracing::warn!(%error, "etcd failed; what is known stays, and it goes on trying");
            self.reported = Some(class);
            // One that repeats is told once.
            self.error = Some(error);
        }
        Input::Failed(match class {
            Class::Revision => Trouble::Revision,
            Class::Token | Class::Denied => Trouble::Token,
            Class::Permanent | Class::TooLarge | Class::AuthenticationIsOff => Trouble::Permanent,
            Class::Transient | Class::TimedOut | Class::LeaseNotFound | Class::LeaseExists => Trouble::Transient,
        })
    }

    fn publish(&mut self, changed: bool) {
        let state = match self.machine.standing() {
            Standing::Unresolved => State::Unresolved,
            Standing::Current if self.machine.snapshot().is_empty() => State::ConfirmedEmpty,
            Standing::Current => State::Current,
            Standing::Stale { since } => State::Stale { since: self.epoch + since },
        };
        let before = self.views.borrow().clone();
        let revision_alone = !changed && before.snapshot.revision() == self.machine.snapshot().revision();
        let told = match (&before.error, &self.error) {
            (Some(before), Some(now)) => before.is(now),
            (before, now) => before.is_none() == now.is_none(),
        };
        if !changed && state == before.state && told {
            return;
        }
        if changed {
            self.report(&before.snapshot);
        }
        if state != before.state && matches!(state, State::Current | State::ConfirmedEmpty) {
            self.reported = None;
            if let State::Stale { since } = before.state {
                tracing::info!(stale_ms = since.elapsed().as_millis(), "etcd is heard again");
            }
        }
        let snapshot = if revision_alone { before.snapshot } else { Arc::new(self.machine.snapshot().clone()) };
        self.views.send_replace(View { snapshot, state, error: self.error.clone() });
    }

    /// Membership at INFO, and every record that cannot be read, once.
    fn report(&self, before: &Snapshot) {
        let after = self.machine.snapshot();
        let (mut added, mut removed, mut changed, mut unreadable) = (0_usize, 0_usize, 0_usize, 0_usize);
        for difference in diff(before, after) {
            match (&difference.before, &difference.after) {
                (None, Some(_)) => added += 1,
                (Some(_), None) => removed += 1,
                _ => changed += 1,
            }
            if let Some(entry) = &difference.after
                && let Some(error) = entry.error()
            {
                unreadable += 1;
                if unreadable <= SHOWN {
                    let key = String::from_utf8_lossy(entry.key());
                    tracing::warn!(%key, %error, "record skipped: it cannot be read");
                }
            }
        }
        if unreadable > SHOWN {
            tracing::warn!(more = unreadable - SHOWN, "further records skipped: they cannot be read");
        }
        let (instances, revision) = (after.len(), after.revision());
        tracing::info!(added, removed, changed, instances, revision, "membership changed");
    }
}

/// The entry of a key, if it is the service's own.
fn read(codec: &dyn Codec, target: &Target, key: &[u8], value: &[u8]) -> Option<Entry> {
    target.owns(key).then(|| Entry::new(key, codec.decode(key, value)))
}
