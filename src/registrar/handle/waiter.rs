//! Waits for the state of a registration without holding its handle.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::Error;
use crate::registrar::handle::state::{Published, RegistrationState};
use crate::registrar::shared::Shared;
use crate::target::Target;

/// Waits for a state of one registration. Made by [`Registration`](crate::Registration), for itself
/// and for [`ServeControl`](crate::ServeControl), which must not hold its lock while it waits.
pub(crate) struct StateWaiter {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Target,
    /// A receiver of its own, so that a wait does not mark states as seen for
    /// [`Registration::changed`](crate::Registration::changed).
    pub(super) states: watch::Receiver<Published>,
}

impl StateWaiter {
    /// See [`Registration::ready`](crate::Registration::ready).
    pub(crate) async fn wait_ready(self, within: Duration) -> Result<(), Error> {
        let is_decided =
            |state: &RegistrationState| state.is_as_desired() || matches!(state, RegistrationState::HeldByOther { .. });
        match self.wait_for(is_decided, within, within, "registering").await? {
            RegistrationState::HeldByOther { why } => Err(why),
            _ => Ok(()),
        }
    }

    /// Waits up to `left` for a state. `within` is the whole time that the caller was given, and
    /// `doing` what it waits for: the error names both.
    pub(super) async fn wait_for(
        mut self,
        mut condition: impl FnMut(&RegistrationState) -> bool,
        left: Duration,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        let shared = &self.shared;
        let before = shared.progress.now();
        // Makes the task take a turn if its runtime runs, so that a runtime that stands still can be told from a slow etcd.
        shared.changed.notify_one();
        let waited = timeout(left, self.states.wait_for(|published| condition(&published.state))).await;
        match waited.map(|published| published.map(|published| published.state.clone())) {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(_)) => Err(Error::closed("the registration")),
            Err(_) => {
                let doing = format!("{doing} {}", self.target);
                if let Some(message) =
                    shared.progress.stall_message(before, left, "on which the registrar first registered")
                {
                    return Err(Error::timeout_because(doing, within, message));
                }
                let why = self.states.borrow().state.why().cloned();
                let why = why.or_else(|| shared.state().last_error.clone());
                Err(Error::timeout(doing, within, why))
            }
        }
    }
}
