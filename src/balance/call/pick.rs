//! A place for a call: picked at once where a server is ready, else waited for, or the reason why not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::balance::call::deadline::Deadline;
use crate::balance::channel::Inner;
use crate::balance::policy::ready::{ReadyServer, ReadySubchannel};
use crate::balance::policy::{self, Call};
use crate::balance::subchannel::Server;
use crate::connection::StreamPermit;

/// How many servers that were silent for long one look asks for a sign of life: each costs it a PING, and one is enough for
/// the call that looks.
const PROVING: usize = 3;

/// What became of one look at the ready servers.
pub(crate) enum Pick {
    Picked(Arc<ReadySubchannel>, StreamPermit),
    /// Each ready server has failed this call already.
    AllTried,
    /// Each is at its limit, or others wait already.
    Full,
    NoneReady,
}

/// How long a call may wait for a server.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimits {
    pub(crate) deadline: Option<Deadline>,
    /// Whether it waits for as long as that, whatever the servers' state.
    pub(crate) for_ready: bool,
    pub(crate) began: Instant,
}

impl Inner {
    /// Whether servers are ready and none of them has room: a call waits in order then.
    pub(crate) fn is_full(&self) -> bool {
        let ready = self.ready.load();
        !ready.servers.is_empty() && !ready.servers.iter().any(ReadyServer::has_room)
    }

    /// Looks once: atomics only, nothing is allocated.
    pub(crate) fn pick(&self, call: &Call<'_>, tried: &[Arc<Server>], queued: bool) -> Pick {
        let ready = self.ready.load();
        let servers = &ready.servers;
        if servers.is_empty() {
            return Pick::NoneReady;
        }
        if !queued && self.queue.is_waited_in() {
            return Pick::Full;
        }
        let is_tried = |server: &ReadyServer| tried.iter().any(|tried| Arc::ptr_eq(tried, &server.0.server));
        // Whoever has no room may have to prove first that it is alive; no policy comes to it before.
        let usable = |server: &ReadyServer| (server.has_room() || server.0.prove()) && !is_tried(server);
        let start = policy::pick(&self.settings.policy, &self.memory, call, &ready, usable);
        let (mut any_tried, mut any_full, mut proving) = (false, false, 0);
        for server in servers[start..].iter().chain(&servers[..start]) {
            if server.0.connection.is_closing() {
                continue;
            }
            if is_tried(server) {
                any_tried = true;
            } else if let Some(slot) = server.0.reserve() {
                return Pick::Picked(server.0.clone(), slot);
            } else {
                if proving < PROVING {
                    proving += usize::from(server.0.connection.probe());
                }
                any_full = true;
            }
        }
        match (any_full, any_tried) {
            (true, _) => Pick::Full,
            (false, true) => Pick::AllTried,
            (false, false) => Pick::NoneReady,
        }
    }

    /// Waits in order until a server has room, or fails where waiting is in vain.
    pub(crate) async fn wait(
        &self,
        call: &Call<'_>,
        tried: &[Arc<Server>],
        patience: WaitLimits,
    ) -> Result<Pick, Status> {
        self.unless_in_vain(patience)?;
        let ticket = self.queue.enter(patience.for_ready);
        self.prove_for_waiting();
        loop {
            // After its place was taken: what comes from now on wakes it.
            self.unless_in_vain(patience)?;
            self.queue.settle(|| self.has_room());
            self.bounded(patience, ticket.called()).await?;
            match self.pick(call, tried, true) {
                Pick::Picked(member, slot) => {
                    ticket.served();
                    self.queue.settle(|| self.has_room());
                    self.prove_for_waiting();
                    return Ok(Pick::Picked(member, slot));
                }
                // All that stand behind may go where this one has been: it must not hold them up.
                Pick::Full if !tried.is_empty() => return Ok(Pick::AllTried),
                Pick::AllTried => return Ok(Pick::AllTried),
                Pick::Full | Pick::NoneReady => ticket.back(),
            }
        }
    }

    /// Asks further servers that were silent for long for a sign of life, where calls wait and no server has room: each
    /// call that comes to wait has some asked, so that none waits beside a server that nobody has asked.
    pub(crate) fn prove_for_waiting(&self) {
        if !self.queue.is_waited_in() || self.has_room() {
            return;
        }
        let ready = self.ready.load();
        let begun = ready.servers.iter().filter(|server| server.0.connection.probe());
        begun.take(PROVING).for_each(drop);
    }

    fn has_room(&self) -> bool {
        self.ready.load().servers.iter().any(ReadyServer::has_room)
    }

    fn unless_in_vain(&self, patience: WaitLimits) -> Result<(), Status> {
        // Before the look at the servers: those that come are there before it is told.
        let in_vain = self.outlook.borrow().is_in_vain(patience.for_ready);
        if in_vain && self.ready.load().servers.iter().all(|server| server.0.connection.is_closing()) {
            return Err(self.status(Code::Unavailable, ""));
        }
        Ok(())
    }

    /// Sleeps, unless the call's time is up before.
    pub(crate) async fn pause(&self, time: Duration, patience: WaitLimits) -> Result<(), Status> {
        self.bounded(patience, tokio::time::sleep(time)).await
    }

    /// When the call has waited for long enough.
    pub(crate) fn until(&self, patience: WaitLimits) -> Option<Instant> {
        let limit = (!patience.for_ready).then(|| patience.began.checked_add(self.settings.wait_limit)).flatten();
        let deadline = patience.deadline.map(|deadline| deadline.at);
        limit.into_iter().chain(deadline).min()
    }

    async fn bounded<F: Future>(&self, patience: WaitLimits, future: F) -> Result<F::Output, Status> {
        let Some(until) = self.until(patience) else { return Ok(future.await) };
        match timeout_at(until, future).await {
            Ok(output) => Ok(output),
            Err(_) => Err(self.waited_too_long(patience)),
        }
    }

    fn waited_too_long(&self, patience: WaitLimits) -> Status {
        let late = patience.deadline.is_some_and(|deadline| deadline.has_passed());
        let code = if late { Code::DeadlineExceeded } else { Code::Unavailable };
        let waited = patience.began.elapsed().as_millis();
        self.status(code, &format!("waited {waited} ms: "))
    }
}
