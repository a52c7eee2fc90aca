//! Waiting for how a registration stands, by whoever does not hold it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::registrar::handle::state::Published;
use crate::registrar::{Registrar, RegistrationState};
use crate::target::Target;

/// Whether clients may know a registration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<Mutex<Sight>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    /// Nothing of it was ever on its way to etcd.
    #[default]
    Never,
    MayBe,
    /// It is out of etcd for good since then.
    Out(Instant),
}

impl Known {
    /// Something of it is about to be on its way to etcd.
    pub(crate) fn begin(&self) {
        *self.sight() = Sight::MayBe;
    }

    /// It is out of etcd for good.
    pub(crate) fn end(&self) {
        let mut sight = self.sight();
        if *sight == Sight::MayBe {
            *sight = Sight::Out(Instant::now());
        }
    }

    /// Whether it may be in etcd.
    pub(crate) fn may_be(&self) -> bool {
        *self.sight() == Sight::MayBe
    }

    /// How long it takes until all clients have forgotten it, where they need so long to see it go, and nothing of it is in etcd now.
    pub(crate) fn until_forgotten(&self, propagation: Duration) -> Duration {
        match *self.sight() {
            Sight::Never => Duration::ZERO,
            Sight::MayBe => propagation,
            Sight::Out(since) => propagation.saturating_sub(since.elapsed()),
        }
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_forget_what_has_left() {
        let (known, second) = (Known::default(), Duration::from_secs(1));
        known.end();
        assert!(!known.may_be() && known.until_forgotten(second).is_zero(), "it was never there");
        known.begin();
        assert!(known.may_be());
        assert_eq!(known.until_forgotten(second), second);
        known.end();
        advance(second / 4).await;
        known.end();
        assert!(!known.may_be());
        assert_eq!(known.until_forgotten(second), second * 3 / 4);
        advance(second).await;
        assert!(known.until_forgotten(second).is_zero());
        known.begin();
        assert_eq!(known.until_forgotten(second), second);
    }
}
