//! Closing a registrar: all of its registrations leave at once.

use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::registrar::Registrar;
use crate::registrar::shared::Shared;
use crate::secret::shown_key;

/// Keys that an error names one by one.
const NAMED: usize = 10;

impl Registrar {
    /// Takes everything that it has registered out of etcd, and waits for that up to `within`: the last thing to do before the
    /// runtime ends. Whatever is still registered when `main` returns stays in etcd for as long as the lease lives (15 s by
    /// default), and clients call it until then.
    ///
    /// It is for all clones, and for good: what is registered from now on is refused. All registrations leave together, with
    /// their lease. Each handle shows [`RegistrationState::Closed`](crate::registrar::RegistrationState::Closed) once its own has left.
    /// Calling it again waits for what has not left yet. A server that [`Serve`](crate::Serve) has registered leaves as well, and
    /// goes on serving: where there are such, let them end first.
    ///
    /// # Errors
    /// [`Error::is_timeout`] when something has not left in time, as when etcd is away: its source names the keys. They go on
    /// being tried while the runtime lives, and then go with the lease, which nobody renews any more.
    /// [`Error::is_closed`] when a runtime that looked after registrations ended before with keys in etcd, whose lease lives and which
    /// were not registered again since: its source names them. Outside of a tokio runtime, where nothing can be waited for.
    ///
    /// # Cancel safety
    /// Once it was polled, dropping it only ends the waiting.
    pub async fn close(&self, within: Duration) -> Result<(), Error> {
        self.shared.close();
        Handle::try_current().map_err(|_| Error::no_runtime("waiting for the registrar to close"))?;
        let before = self.shared.turns.now();
        self.shared.changed.notify_one();
        let left = timeout(within, self.shared.all_left()).await;
        let state = self.shared.state();
        if left.is_ok() || !state.has_task {
            let stays = |until: Option<Instant>| until.is_none_or(|until| Instant::now() < until);
            let left_behind = state.left_behind.iter().filter(|left| stays(left.until));
            let left_behind: Vec<String> = left_behind.map(|left| shown_key(&left.key)).collect();
            drop(state);
            return if left_behind.is_empty() {
                Ok(())
            } else {
                let why = format!("{} in etcd until the lease ends", list(&left_behind, "stay", "stays"));
                Err(Error::closed_because("the registrar's runtime", why))
            };
        }
        let keys: Vec<String> = state.wanted.values().flat_map(|wanted| wanted.keys().collect::<Vec<_>>()).collect();
        let (lease, error) = (state.lease, state.error.clone());
        drop(state);
        let mut why = match lease {
            _ if !keys.is_empty() => list(&keys, "have not left", "has not left"),
            Some(lease) => format!("the lease {lease:x} is not revoked yet"),
            None => "the task has not ended yet".to_owned(),
        };
        if let Some(still) = self.shared.turns.stall_message(before, within, "that looks after the registrations") {
            why = format!("{why}; {still}");
        } else if let Some(error) = error {
            why = format!("{why}; the last error: {error:?}");
        }
        Err(Error::timeout_because("closing the registrar", within, why))
    }
}

impl Shared {
    /// Everything leaves, and nothing is taken on any more.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.wanted.values_mut().for_each(|wanted| wanted.leaving = true);
        drop(state);
        self.changed.notify_one();
    }

    async fn all_left(&self) {
        loop {
            let mut told = pin!(self.left.notified());
            told.as_mut().enable();
            if !self.state().has_task {
                return;
            }
            told.await;
        }
    }
}

fn list(keys: &[String], many: &str, one: &str) -> String {
    let named = keys.iter().take(NAMED).map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let more = keys.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{named}{more} {}", if keys.len() == 1 { one } else { many })
}
