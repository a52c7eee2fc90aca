//! Waiting for how a registration stands, by whoever does not hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::Error;
use crate::registrar::handle::state::Published;
use crate::registrar::{Registrar, RegistrationState};
use crate::target::Target;

/// Whether anything was ever on its way to etcd. It is set before anything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried(Arc<AtomicBool>);

impl Tried {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Waits for how a registration stands.
pub(crate) struct Readiness {
    pub(crate) registrar: Registrar,
    pub(crate) target: Target,
    pub(crate) seen: watch::Receiver<Published>,
}

impl Readiness {
    /// See [`Registration::ready`].
    pub(crate) async fn wait(self, within: Duration) -> Result<(), Error> {
        let stands =
            |state: &RegistrationState| state.is_as_wanted() || matches!(state, RegistrationState::Held { .. });
        match self.wait_for(stands, within, "registering").await? {
            RegistrationState::Held { why } => Err(why),
            _ => Ok(()),
        }
    }

    pub(crate) async fn wait_for(
        self,
        condition: impl FnMut(&RegistrationState) -> bool,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        self.wait_longer(condition, within, within, doing).await
    }

    /// The same where only so much is left of the time that was given.
    pub(crate) async fn wait_longer(
        mut self,
        mut condition: impl FnMut(&RegistrationState) -> bool,
        left: Duration,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        let shared = &self.registrar.shared;
        let before = shared.turns.now();
        shared.changed.notify_one();
        let waited = timeout(left, self.seen.wait_for(|published| condition(&published.state))).await;
        match waited.map(|published| published.map(|published| published.state.clone())) {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(_)) => Err(Error::closed("the registration")),
            Err(_) => {
                let doing = format!("{doing} {}", self.target);
                if let Some(still) = shared.turns.stall_message(before, left, "on which the registrar first registered")
                {
                    return Err(Error::timeout_because(doing, within, still));
                }
                let why = self.seen.borrow().state.why().cloned();
                let why = why.or_else(|| shared.state().error.clone());
                Err(Error::timeout(doing, within, why))
            }
        }
    }
}
