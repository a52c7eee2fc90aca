//! A place for a call: picked at once where a server is ready, else waited for, or the reason why not.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

use super::channel::Inner;
use super::deadline::Deadline;
use super::outlook::Connectivity;
use super::policy::{self, Call};
use super::ready::{Member, ReadyServer};
use super::server::Server;
use crate::connection::Slot;

/// Two looks so far apart that both see room mean that those who stand before do not look.
const ASLEEP: Duration = Duration::from_millis(50);

/// What became of one look at the ready servers.
pub(crate) enum Pick {
    Picked(Arc<Member>, Slot),
    /// Each ready server has failed this call already.
    AllTried,
    /// Each is at its limit, or others wait already.
    Full,
    NoneReady,
}

/// How long a call may wait for a server.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) deadline: Option<Deadline>,
    /// Whether it waits for as long as that, whatever the servers' state.
    pub(crate) for_ready: bool,
    pub(crate) began: Instant,
}

impl Inner {
    /// Looks once: atomics only, nothing is allocated.
    pub(crate) fn pick(&self, call: &Call<'_>, tried: &[Arc<Server>], queued: bool) -> Pick {
        let ready = self.ready.load();
        let servers = &ready.servers;
        if servers.is_empty() {
            return Pick::NoneReady;
        }
        if !queued && self.queued.load(Ordering::Relaxed) > 0 {
            return Pick::Full;
        }
        let is_tried = |server: &ReadyServer| tried.iter().any(|tried| Arc::ptr_eq(tried, &server.0.server));
        let usable = |server: &ReadyServer| server.has_room() && !is_tried(server);
        let start = policy::pick(&self.settings.policy, &self.memory, call, &ready, usable);
        let (mut any_tried, mut any_full) = (false, false);
        for server in servers[start..].iter().chain(&servers[..start]) {
            if server.0.connection.is_over() {
                continue;
            }
            if is_tried(server) {
                any_tried = true;
            } else if let Some(slot) = server.0.reserve() {
                return Pick::Picked(server.0.clone(), slot);
            } else {
                any_full = true;
            }
        }
        match (any_full, any_tried) {
            (true, _) => Pick::Full,
            (false, true) => Pick::AllTried,
            (false, false) => Pick::NoneReady,
        }
    }

    /// Waits until the set of ready servers is another than it was when `wait` was asked for, or fails where waiting
    /// is in vain.
    pub(crate) async fn wait_for_server(
        &self,
        call: &Call<'_>,
        tried: &[Arc<Server>],
        patience: Patience,
    ) -> Result<Pick, Status> {
        let mut outlook = self.outlook.subscribe();
        loop {
            let connectivity = outlook.borrow_and_update().connectivity;
            // After the look at the outlook, so that no change falls between.
            match self.pick(call, tried, false) {
                Pick::NoneReady => {}
                pick => return Ok(pick),
            }
            let in_vain = match connectivity {
                Connectivity::TransientFailure => !patience.for_ready,
                Connectivity::Shutdown => true,
                Connectivity::Connecting | Connectivity::Ready => false,
            };
            if in_vain {
                return Err(self.outlook.borrow().status(Code::Unavailable, ""));
            }
            // The sender is ours: it cannot be closed.
            let _ = self.bounded(patience, outlook.changed()).await?;
        }
    }

    /// Waits in order until a server has room.
    pub(crate) async fn wait_for_room(
        &self,
        call: &Call<'_>,
        tried: &[Arc<Server>],
        patience: Patience,
    ) -> Result<Pick, Status> {
        let _place = Queued::enter(&self.queued);
        // One at a time looks for room; the others stand behind in the lock's own queue, which is in order.
        let mut turn = pin!(self.queue.lock());
        let mut room_before = false;
        let _head = loop {
            match self.bounded(patience, timeout(ASLEEP, turn.as_mut())).await? {
                Ok(head) => break head,
                // Room that nobody takes: whoever stands before is not polled by its owner.
                Err(_) if room_before => match self.pick(call, tried, true) {
                    Pick::Full => {}
                    pick => return Ok(pick),
                },
                Err(_) => {}
            }
            room_before = self.ready.load().servers.iter().any(ReadyServer::has_room);
        };
        loop {
            match self.pick(call, tried, true) {
                Pick::Full if tried.is_empty() => {}
                // All that stand behind may go where this one has been: it must not hold them up.
                Pick::Full => return Ok(Pick::AllTried),
                pick => return Ok(pick),
            }
            self.bounded(patience, self.ground.room.notified()).await?;
        }
    }

    /// Sleeps, unless the call's time is up before.
    pub(crate) async fn pause(&self, time: Duration, patience: Patience) -> Result<(), Status> {
        self.bounded(patience, tokio::time::sleep(time)).await
    }

    /// When the call has waited for long enough.
    pub(crate) fn until(&self, patience: Patience) -> Option<Instant> {
        let limit = (!patience.for_ready).then(|| patience.began.checked_add(self.settings.wait_limit)).flatten();
        let deadline = patience.deadline.map(|deadline| deadline.at);
        limit.into_iter().chain(deadline).min()
    }

    async fn bounded<F: Future>(&self, patience: Patience, future: F) -> Result<F::Output, Status> {
        let Some(until) = self.until(patience) else { return Ok(future.await) };
        match timeout_at(until, future).await {
            Ok(output) => Ok(output),
            Err(_) => Err(self.waited_too_long(patience)),
        }
    }

    fn waited_too_long(&self, patience: Patience) -> Status {
        let late = patience.deadline.is_some_and(|deadline| deadline.has_passed());
        let code = if late { Code::DeadlineExceeded } else { Code::Unavailable };
        let waited = patience.began.elapsed().as_millis();
        self.outlook.borrow().status(code, &format!("waited {waited} ms: "))
    }
}

/// Counts who waits, also when the wait is given up.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn enter(queued: &'a AtomicUsize) -> Self {
        queued.fetch_add(1, Ordering::Relaxed);
        Self(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
