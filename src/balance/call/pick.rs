//! A place for a call: picked at once where a server is ready, else waited for, or the reason why not.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderMap};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::balance::call::deadline::Deadline;
use crate::balance::channel::Inner;
use crate::balance::policy::{self, Call, IsAvailable, Picker};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::subchannel::Subchannel;
use crate::connection::StreamPermit;

/// How many servers that were silent for long one look asks for a sign of life: each costs it a PING, and one is enough for
/// the call that looks.
const PROVING: usize = 3;

/// One attempt that needs a server.
pub(crate) struct PickRequest<'a> {
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    /// Its number, from 1.
    pub(crate) attempt: u32,
    /// Servers that have failed the call.
    pub(crate) tried: &'a [Arc<Subchannel>],
}

/// A server for an attempt.
pub(crate) struct PickedServer {
    pub(crate) server: Arc<ReadySubchannel>,
    pub(crate) permit: StreamPermit,
    /// Told when the attempt has ended.
    pub(crate) picker: Arc<dyn Picker>,
}

/// The result of one look at the ready servers.
pub(crate) enum PickResult {
    Picked(PickedServer),
    /// Each ready server has failed this call already.
    AllTried,
    /// Each is at its limit, or others wait already.
    Full,
    NoneReady,
    /// The picker has no server for the call now.
    Wait,
    /// The picker fails the call.
    Fail(Status),
}

/// The servers of one look, as the picker may ask about them.
struct Availability<'a> {
    servers: &'a [Arc<ReadySubchannel>],
    tried: &'a [Arc<Subchannel>],
    /// How many servers this look has asked for a sign of life.
    proving: Cell<usize>,
}

impl Availability<'_> {
    fn is_tried(&self, server: &ReadySubchannel) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, &server.subchannel))
    }

    /// Asks a server without room for a sign of life, which is why it may have none.
    fn prove(&self, server: &ReadySubchannel) {
        if self.proving.get() < PROVING {
            self.proving.set(self.proving.get() + usize::from(server.connection.prove()));
        }
    }
}

impl IsAvailable for Availability<'_> {
    fn is_available(&self, server: usize) -> bool {
        let Some(server) = self.servers.get(server) else { return false };
        if server.connection.has_room() {
            return !self.is_tried(server);
        }
        self.prove(server);
        false
    }
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
        !ready.servers.is_empty() && !ready.has_room()
    }

    /// Looks once: atomics only, nothing is allocated.
    pub(crate) fn pick(&self, request: &PickRequest<'_>, queued: bool) -> PickResult {
        let ready = self.ready.load();
        let servers = &*ready.servers;
        let Some(picker) = &ready.picker else { return PickResult::NoneReady };
        if !queued && self.queue.is_waited_in() {
            return PickResult::Full;
        }
        let availability = Availability { servers, tried: request.tried, proving: Cell::new(0) };
        let call = Call {
            path: request.path,
            headers: request.headers,
            extensions: request.extensions,
            attempt: request.attempt,
            servers: &availability,
        };
        let start = match picker.pick(&call) {
            policy::Pick::Server(server) => server.min(servers.len() - 1), // there is one where there is a picker
            policy::Pick::Wait => return PickResult::Wait,
            policy::Pick::Fail(status) => return PickResult::Fail(status),
        };
        let (mut any_tried, mut any_full) = (false, false);
        for server in servers[start..].iter().chain(&servers[..start]) {
            if server.connection.is_over() {
                continue;
            }
            if availability.is_tried(server) {
                any_tried = true;
            } else if let Some(permit) = server.connection.reserve() {
                return PickResult::Picked(PickedServer { server: server.clone(), permit, picker: picker.clone() });
            } else {
                availability.prove(server);
                any_full = true;
            }
        }
        match (any_full, any_tried) {
            (true, _) => PickResult::Full,
            (false, true) => PickResult::AllTried,
            (false, false) => PickResult::NoneReady,
        }
    }

    /// Waits in order until a server has room, or fails where waiting is in vain.
    pub(crate) async fn wait(&self, request: &PickRequest<'_>, patience: WaitLimits) -> Result<PickResult, Status> {
        self.unless_in_vain(patience)?;
        let ticket = self.queue.enter(patience.for_ready);
        self.prove_for_waiting();
        loop {
            // After its place was taken: what comes from now on wakes it.
            self.unless_in_vain(patience)?;
            self.queue.settle(|| self.has_room());
            self.bounded(patience, ticket.called()).await?;
            match self.pick(request, true) {
                PickResult::Picked(picked) => {
                    ticket.served();
                    self.queue.settle(|| self.has_room());
                    self.prove_for_waiting();
                    return Ok(PickResult::Picked(picked));
                }
                // All that stand behind may go where this one has been: it must not hold them up.
                PickResult::Full if !request.tried.is_empty() => return Ok(PickResult::AllTried),
                // The same holds where its picker has nothing for it.
                gone @ (PickResult::AllTried | PickResult::Wait | PickResult::Fail(_)) => return Ok(gone),
                PickResult::Full | PickResult::NoneReady => ticket.back(),
            }
        }
    }

    /// Waits until the set changes or the policy notifies, where the picker has said [`policy::Pick::Wait`]. Outside of the queue: such
    /// a call keeps nobody waiting.
    pub(crate) async fn wait_for_picker(
        &self,
        request: &PickRequest<'_>,
        patience: WaitLimits,
    ) -> Result<PickResult, Status> {
        let mut notified = pin!(self.pick_notifier.notified());
        notified.as_mut().enable();
        // After it listens: a change before this look is seen by it, and one after it wakes this call.
        let result = self.pick(request, false);
        if !matches!(result, PickResult::Wait) {
            return Ok(result);
        }
        match self.until(patience) {
            None => notified.await,
            Some(until) if timeout_at(until, notified).await.is_ok() => {}
            Some(_) => return Err(self.waited_too_long(patience, "the policy picked none: ")),
        }
        Ok(PickResult::Wait)
    }

    /// Asks further servers that were silent for long for a sign of life, where calls wait and no server has room: each
    /// call that comes to wait has some asked, so that none waits beside a server that nobody has asked.
    pub(crate) fn prove_for_waiting(&self) {
        if !self.queue.is_waited_in() || self.has_room() {
            return;
        }
        let ready = self.ready.load();
        let begun = ready.servers.iter().filter(|server| server.connection.prove());
        begun.take(PROVING).for_each(drop);
    }

    fn has_room(&self) -> bool {
        self.ready.load().has_room()
    }

    fn unless_in_vain(&self, patience: WaitLimits) -> Result<(), Status> {
        // Before the look at the servers: those that come are there before it is told.
        let in_vain = self.outlook.borrow().is_in_vain(patience.for_ready);
        if in_vain && self.ready.load().servers.iter().all(|server| server.connection.is_over()) {
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
            Err(_) => Err(self.waited_too_long(patience, "")),
        }
    }

    fn waited_too_long(&self, patience: WaitLimits, reason: &str) -> Status {
        let late = patience.deadline.is_some_and(|deadline| deadline.has_passed());
        let code = if late { Code::DeadlineExceeded } else { Code::Unavailable };
        let waited = patience.began.elapsed().as_millis();
        self.status(code, &format!("waited {waited} ms: {reason}"))
    }
}
