//! The task around the lease machine: action → await → input, for as long as anything is wanted.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::lease::{Action, Id, Input, Machine, Standing, Trouble};
use super::{RegistrationState, Shared};
use crate::error::Error;
use crate::etcd::{Class, Etcd, Failure, KeepAlive};

pub(super) struct Task {
    shared: Arc<Shared>,
    machine: Machine,
    stream: Option<KeepAlive>,
    epoch: Instant,
    error: Option<Error>,
    /// What the machine was told: whether each registration is leaving.
    told: BTreeMap<Id, bool>,
    /// How each registration stood when it was last shown.
    shown: BTreeMap<Id, Standing>,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let machine = Machine::new(shared.seconds, fastrand::u64(..));
        Self {
            shared,
            machine,
            stream: None,
            epoch: Instant::now(),
            error: None,
            told: BTreeMap::new(),
            shown: BTreeMap::new(),
        }
    }

    /// Goes on until nothing is wanted any more.
    pub(super) async fn run(mut self) {
        loop {
            self.hear();
            self.show();
            if self.machine.is_idle() && self.shared.rest() {
                return;
            }
            let action = self.machine.action(self.now());
            let input = match &action {
                Action::Wait { until } => {
                    self.wait(*until).await;
                    continue;
                }
                action => self.act(action).await,
            };
            self.machine.on(self.now(), &action, input);
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells the machine what the handles want.
    fn hear(&mut self) {
        let now = self.now();
        let idle = Action::Wait { until: None };
        for (id, wanted) in &self.shared.state().wanted {
            let id = *id;
            if !self.told.contains_key(&id) {
                self.machine.on(now, &idle, Input::Wanted { id, records: wanted.records.clone() });
            }
            if self.told.insert(id, wanted.leaving) != Some(wanted.leaving) && wanted.leaving {
                self.machine.on(now, &idle, Input::Leaving { id });
            }
        }
    }

    /// Shows every handle how its registration stands, and forgets those that are closed.
    fn show(&mut self) {
        let now = self.now();
        let lease = self.machine.lease();
        let mut state = self.shared.state();
        state.lease = lease;
        state.error.clone_from(&self.error);
        for (id, wanted) in &state.wanted {
            let standing = self.machine.standing(now, *id);
            if self.shown.insert(*id, standing) == Some(standing) {
                continue;
            }
            let why = || self.error.clone().unwrap_or_else(|| Error::closed("the lease"));
            let service = wanted.target.name();
            let state = match standing {
                Standing::Pending => RegistrationState::Registering,
                Standing::Registered => {
                    tracing::info!(service, lease = lease.map(|id| format!("{id:x}")), "registered");
                    RegistrationState::Registered
                }
                Standing::Renewing => RegistrationState::Renewing { why: why() },
                Standing::Lost => {
                    tracing::warn!(service, why = %why(), "registration lost; it goes on trying");
                    RegistrationState::Lost { why: why() }
                }
                Standing::Closed => {
                    tracing::info!(service, "deregistered");
                    RegistrationState::Closed
                }
            };
            wanted.show.send_replace(state);
        }
        let (told, shown) = (&mut self.told, &mut self.shown);
        state.wanted.retain(|id, _| {
            let closed = shown.get(id) == Some(&Standing::Closed);
            if closed {
                told.remove(id);
                shown.remove(id);
            }
            !closed
        });
    }

    async fn wait(&self, until: Option<Duration>) {
        let timer = async {
            match until {
                Some(until) => sleep_until(self.epoch + until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.shared.changed.notified() => {}
            () = timer => {}
        }
    }

    /// Carries out one action within the time that the lease allows, so that the next renewal is never late for it.
    async fn act(&mut self, action: &Action) -> Input {
        let patience = self.machine.patience();
        let etcd = self.shared.etcd.clone();
        let asked = self.now();
        let done = match action {
            Action::Renew { id } => match etcd.renew(*id, &mut self.stream, patience).await {
                Ok(seconds) => return Input::Renewed { asked, seconds },
                Err(failure) => Err(failure),
            },
            action => match timeout(patience, request(&etcd, action, patience / 2)).await {
                Ok(Ok(Some(seconds))) => return Input::Granted { asked, seconds },
                Ok(Ok(None)) => Ok(()),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(Failure::timed_out(patience).while_doing("registering", "etcd")),
            },
        };
        match done {
            Ok(()) => Input::Done,
            Err(failure) => self.failed(failure),
        }
    }

    fn failed(&mut self, failure: Failure) -> Input {
        let trouble = match failure.class {
            Class::LeaseNotFound => Trouble::LeaseGone,
            Class::Permanent | Class::Denied | Class::AuthenticationIsOff => Trouble::Permanent,
            Class::Transient | Class::Token | Class::Revision | Class::LeaseExists | Class::TooLarge => {
                Trouble::Transient
            }
        };
        let error = failure.into_error();
        let known = self.error.as_ref().is_some_and(|last| last.to_string() == error.to_string());
        if known {
            tracing::debug!(%error, "etcd failed again");
        } else {
            tracing::warn!(%error, "etcd failed; it goes on trying");
        }
        self.error = Some(error);
        Input::Failed(trouble)
    }
}

/// One request; a grant gives the life that was granted.
async fn request(etcd: &Etcd, action: &Action, deadline: Duration) -> Result<Option<Option<i64>>, Failure> {
    match action {
        Action::Grant { id, seconds } => return etcd.grant(*id, *seconds, deadline).await.map(Some),
        Action::Put { record, lease, .. } => etcd.put(&record.key, &record.value, *lease, deadline).await?,
        Action::Delete { record, lease, .. } => etcd.delete(&record.key, *lease, deadline).await?,
        Action::Revoke { id } => etcd.revoke(*id, deadline).await?,
        Action::Renew { .. } | Action::Wait { .. } => {}
    }
    Ok(None)
}
