//! Waiting for how a registration stands, by whoever does not hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Registrar, RegistrationState};
use crate::error::Error;
use crate::target::Target;

/// Whether anything was ever on its way to etcd. It is set before anything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried(Arc<AtomicBool>);

impl Tried {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Waits for how a registration stands.
pub(crate) struct Readiness {
    pub(super) registrar: Registrar,
    pub(super) target: Target,
    pub(super) seen: watch::Receiver<RegistrationState>,
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

    pub(super) async fn wait_for(
        self,
        condition: impl FnMut(&RegistrationState) -> bool,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        self.wait_longer(condition, within, within, doing).await
    }

    /// The same where only so much is left of the time that was given.
    pub(super) async fn wait_longer(
        mut self,
        condition: impl FnMut(&RegistrationState) -> bool,
        left: Duration,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        let waited = timeout(left, self.seen.wait_for(condition)).await.map(|state| state.map(|state| state.clone()));
        match waited {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(_)) => Err(Error::closed("the registration")),
            Err(_) => {
                let why = self.seen.borrow().why().cloned();
                let why = why.or_else(|| self.registrar.shared.state().error.clone());
                Err(Error::timeout(format!("{doing} {}", self.target), within, why))
            }
        }
    }
}
