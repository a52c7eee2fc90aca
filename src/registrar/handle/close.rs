//! Closes a registrar: all of its registrations leave at once.

use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::registrar::handle::registrar::Registrar;
use crate::registrar::shared::Shared;
use crate::secret::shown_key;

/// How many keys an error names: enough to see what they are, short enough for a log line.
const NAMED_KEYS: usize = 10;

impl Registrar {
    /// Takes all registrations out of etcd, and waits for that for at most the time `within`. Do
    /// this last, before the runtime ends: a registration that is left when `main` returns stays in
    /// etcd until its lease ends (15 s by default), and clients try it until then.
    ///
    /// Closes all clones, for good: later registrations are refused. All registrations leave
    /// together, with their lease. Each [`Registration`](crate::Registration) shows
    /// [`RegistrationState::Closed`](crate::RegistrationState::Closed) once it has left. A second
    /// call waits for what has not left yet.
    ///
    /// Registrations of [`Serve`](crate::Serve) leave as well, although their servers still accept
    /// calls: let the servers end first.
    ///
    /// # Errors
    /// - Something has not left in time ([`Error::is_timeout`]), as when etcd is unavailable. The
    ///   source names the keys. Their removal is retried while the runtime lives. If it never
    ///   succeeds, the keys go when the lease ends: it is no longer renewed.
    /// - The runtime that maintained the registrations ended before they had left
    ///   ([`Error::is_closed`]): their keys are in etcd until the lease ends. The source names the
    ///   keys.
    /// - There is no tokio runtime, so nothing can be waited for.
    ///
    /// # Cancel safety
    /// Once the future was polled, dropping it only ends the waiting.
    pub async fn close(&self, within: Duration) -> Result<(), Error> {
        self.shared.close();
        Handle::try_current().map_err(|_| Error::no_runtime("waiting for the registrar to close"))?;
        let before = self.shared.progress.now();
        self.shared.changed.notify_one();
        let left = timeout(within, self.shared.task_ended()).await;
        let state = self.shared.state();
        if left.is_ok() || !state.has_task {
            let is_live = |until: Option<Instant>| until.is_none_or(|until| Instant::now() < until);
            let abandoned = state.abandoned_keys.iter().filter(|(_, until)| is_live(**until));
            let abandoned: Vec<String> = abandoned.map(|(key, _)| shown_key(key)).collect();
            drop(state);
            if abandoned.is_empty() {
                return Ok(());
            }
            let why = format!("{} in etcd until the lease ends", list(&abandoned, "stay", "stays"));
            return Err(Error::closed_because("the registrar's runtime", why));
        }
        let keys: Vec<String> =
            state.entries.values().flat_map(|entry| entry.shown_keys().collect::<Vec<_>>()).collect();
        let (lease, error) = (state.lease, state.last_error.clone());
        drop(state);
        let mut why = match lease {
            _ if !keys.is_empty() => list(&keys, "have not left", "has not left"),
            Some(lease) => format!("the lease {lease:x} is not revoked yet"),
            None => "the task has not ended yet".to_owned(),
        };
        if let Some(message) = self.shared.progress.stall_message(before, within, "that looks after the registrations")
        {
            why = format!("{why}; {message}");
        } else if let Some(error) = error {
            why = format!("{why}; the last error: {error:?}");
        }
        Err(Error::timeout_because("closing the registrar", within, why))
    }
}

impl Shared {
    /// Makes every registration leave, and refuses new ones.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.entries.leave_all();
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until no task runs: it ends once everything has left and the lease is revoked.
    async fn task_ended(&self) {
        loop {
            // Enabled before the check: `notify_waiters` between the two would be missed otherwise.
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if !self.state().has_task {
                return;
            }
            left.await;
        }
    }
}

/// The keys as a phrase: `"a/h:1", "a/h:2" and 3 more have not left`.
fn list(keys: &[String], many: &str, one: &str) -> String {
    let named = keys.iter().take(NAMED_KEYS).map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let more = keys.len().saturating_sub(NAMED_KEYS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{named}{more} {}", if keys.len() == 1 { one } else { many })
}
