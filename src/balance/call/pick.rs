//! A server for a call: picked at once where one has room, or waited for in the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::balance::call::deadline::Deadline;
use crate::balance::policy::ready::{ReadyServer, ReadySubchannel};
use crate::balance::policy::{self, Call};
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::Server;
use crate::connection::StreamPermit;

/// How many idle servers one pick sends a PING to. One that answers is enough for the call; of three, two may be dead.
const MAX_PROBES: usize = 3;

/// The result of one look at the ready servers.
pub(crate) enum PickOutcome {
    /// A server, with the permit for one stream on its connection.
    Picked(Arc<ReadySubchannel>, StreamPermit),
    /// Each ready server has failed this call already.
    AllFailed,
    /// Each ready server is at its limit of streams, or other calls wait already.
    Full,
    NoneReady,
}

/// How long a call may wait for a server.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimits {
    pub(crate) deadline: Option<Deadline>,
    /// Waits until the deadline, whatever the state of the servers. Otherwise the channel's wait limit holds too.
    pub(crate) wait_for_ready: bool,
    /// The time from which the wait limit counts. It moves on by the time that the call spends with servers.
    pub(crate) started: Instant,
}

impl ChannelShared {
    /// Whether servers are ready and none of them has room: a call has to wait in the queue then.
    pub(crate) fn all_full(&self) -> bool {
        let ready = self.ready.load();
        !ready.servers.is_empty() && !ready.servers.iter().any(ReadyServer::has_room)
    }

    /// Picks a server for an attempt. It uses atomics only, and allocates nothing.
    ///
    /// `has_turn` tells that the call comes from the queue. Any other call goes behind those that wait there.
    pub(crate) fn pick(&self, call: &Call<'_>, failed_servers: &[Arc<Server>], has_turn: bool) -> PickOutcome {
        let ready = self.ready.load();
        let servers = &ready.servers;
        if servers.is_empty() {
            return PickOutcome::NoneReady;
        }
        if !has_turn && self.queue.has_waiters() {
            return PickOutcome::Full;
        }
        let has_failed =
            |server: &ReadyServer| failed_servers.iter().any(|failed| Arc::ptr_eq(failed, &server.0.server));
        // A server without room may be an idle one. It is sent a PING here, because policies pass over it.
        let is_usable = |server: &ReadyServer| (server.has_room() || server.0.prove()) && !has_failed(server);
        let start = policy::pick(&self.settings.policy, &self.memory, call, &ready, is_usable);
        let (mut any_failed, mut any_full, mut probes) = (false, false, 0);
        // The policy's choice may be full: the next one in order takes the call.
        for server in servers[start..].iter().chain(&servers[..start]) {
            if server.0.connection.is_closing() {
                continue;
            }
            if has_failed(server) {
                any_failed = true;
            } else if let Some(permit) = server.0.reserve() {
                return PickOutcome::Picked(server.0.clone(), permit);
            } else {
                if probes < MAX_PROBES {
                    probes += usize::from(server.0.connection.probe());
                }
                any_full = true;
            }
        }
        match (any_full, any_failed) {
            (true, _) => PickOutcome::Full,
            (false, true) => PickOutcome::AllFailed,
            (false, false) => PickOutcome::NoneReady,
        }
    }

    /// Waits in the queue until a server has room.
    ///
    /// # Errors
    /// When no server can come, or the call's time to wait is over.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the position in the queue, and passes its turn on.
    pub(crate) async fn wait_for_server(
        &self,
        call: &Call<'_>,
        failed_servers: &[Arc<Server>],
        limits: WaitLimits,
    ) -> Result<PickOutcome, Status> {
        self.check_worth_waiting(limits)?;
        let ticket = self.queue.enter(limits.wait_for_ready);
        self.probe_idle_servers();
        loop {
            // Once more, after the call has entered the queue: a change from now on wakes it, and one from before is seen here.
            self.check_worth_waiting(limits)?;
            self.queue.wake_if_room(|| self.has_room());
            self.within_limits(limits, ticket.turn()).await?;
            match self.pick(call, failed_servers, true) {
                PickOutcome::Picked(subchannel, permit) => {
                    ticket.served();
                    self.queue.wake_if_room(|| self.has_room());
                    self.probe_idle_servers();
                    return Ok(PickOutcome::Picked(subchannel, permit));
                }
                // Servers that have failed this call may have room for the calls behind it: it must not hold those up.
                PickOutcome::Full if !failed_servers.is_empty() => return Ok(PickOutcome::AllFailed),
                PickOutcome::AllFailed => return Ok(PickOutcome::AllFailed),
                PickOutcome::Full | PickOutcome::NoneReady => ticket.wait_again(),
            }
        }
    }

    /// Sends PINGs to further idle servers where calls wait and no server has room.
    ///
    /// Each call that begins to wait has some of them asked. So no call waits while a server that would take it was not asked.
    pub(crate) fn probe_idle_servers(&self) {
        if !self.queue.has_waiters() || self.has_room() {
            return;
        }
        let ready = self.ready.load();
        let probed = ready.servers.iter().filter(|server| server.0.connection.probe());
        probed.take(MAX_PROBES).for_each(drop);
    }

    fn has_room(&self) -> bool {
        self.ready.load().servers.iter().any(ReadyServer::has_room)
    }

    /// Refuses to wait where the state of the channel says that no server can come.
    fn check_worth_waiting(&self, limits: WaitLimits) -> Result<(), Status> {
        // The status first: the pool stores servers before it publishes the status that speaks of them.
        let fails = self.status.borrow().fails_calls(limits.wait_for_ready);
        if fails && self.ready.load().servers.iter().all(|server| server.0.connection.is_closing()) {
            return Err(self.unavailable_status(Code::Unavailable, ""));
        }
        Ok(())
    }

    /// Sleeps, or fails when the call's time to wait is over before.
    pub(crate) async fn sleep(&self, pause: Duration, limits: WaitLimits) -> Result<(), Status> {
        self.within_limits(limits, tokio::time::sleep(pause)).await
    }

    /// Returns the time at which the call stops waiting: its deadline, or the end of the wait limit.
    pub(crate) fn wait_end(&self, limits: WaitLimits) -> Option<Instant> {
        let limit = (!limits.wait_for_ready).then(|| limits.started.checked_add(self.settings.wait_limit)).flatten();
        let deadline = limits.deadline.map(|deadline| deadline.at);
        limit.into_iter().chain(deadline).min()
    }

    async fn within_limits<F: Future>(&self, limits: WaitLimits, future: F) -> Result<F::Output, Status> {
        let Some(end) = self.wait_end(limits) else { return Ok(future.await) };
        timeout_at(end, future).await.map_err(|_| {
            let is_late = limits.deadline.is_some_and(|deadline| deadline.has_passed());
            let code = if is_late { Code::DeadlineExceeded } else { Code::Unavailable };
            self.unavailable_status(code, &format!("waited {} ms: ", limits.started.elapsed().as_millis()))
        })
    }
}
