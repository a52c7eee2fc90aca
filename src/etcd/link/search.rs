//! Connecting in the background.
//!
//! Each attempt to connect is a task of its own, one for each member at a time, so that dropping a
//! request ends no attempt that others wait for. Where no member is in use, one more task searches
//! all members in their order. Requests wait for that search: each sees it succeed, or fails with
//! it.
//!
//! ```text
//! request ─▶ link() ─▶ one in use? ── yes ─▶ that link
//!                        └─ no ─▶ search ─▶ dial member 1, after 300 ms also member 2, … ─▶ first that answers is in use
//!                                   └─ all failed: requests fail; the search goes on for 10 s after the last request
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::MemberLink;
use crate::etcd::link::links::{AVOID_FOR, HEDGE_DELAY, IDLE_TIMEOUT, TaskGuard, WANTED_FOR};
use crate::etcd::{Core, Source};

impl Core {
    /// The link in use, once there is one. Called for each request.
    ///
    /// Where none is in use, the search is started, or the running one is joined. Its task does not
    /// belong to the request: dropping this future ends nothing.
    ///
    /// # Errors
    /// The failure of the search that was running, or of the next one, at all members.
    /// [`Class::Changed`] when all users of this etcd are gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn link(self: &Arc<Self>) -> Result<MemberLink, Failure> {
        loop {
            let (rounds, mut changed) = {
                let mut state = self.links.state();
                if let Some(link) = state.current() {
                    return Ok(link);
                }
                if state.is_shut {
                    return Err(Failure::new(Class::Changed, "the resolver or registrar was dropped"));
                }
                state.last_wanted = Instant::now();
                let begins = !std::mem::replace(&mut state.is_connecting, true);
                let waits = (state.failed_rounds, self.links.changed.subscribe());
                drop(state);
                if begins {
                    // Made before the task. A runtime that ends drops its tasks unpolled, and the
                    // guard's `Drop` takes the lock.
                    let guard = ConnectGuard(self.clone());
                    let task = tokio::spawn(connect(guard)).abort_handle();
                    self.links.store_task(task, |state| &mut state.connecting);
                }
                waits
            };
            loop {
                // Never an error: `self` owns the sender.
                let _ = changed.changed().await;
                let mut state = self.links.state();
                if let Some(link) = state.current() {
                    return Ok(link);
                }
                if state.failed_rounds != rounds {
                    let failure = state.failure.clone();
                    return Err(failure.unwrap_or_else(|| Failure::timed_out(self.request_timeout())));
                }
                if !state.is_connecting {
                    break; // the runtime of the search has ended: search on this one
                }
            }
        }
    }

    /// A link to another member than this link's, for a second try beside a late one. Connects
    /// where needed.
    ///
    /// Members that failed within [`AVOID_FOR`] are left out. If all have, the one whose failure is
    /// oldest is used, if it is still connected. `None` where there is no other member, or none can
    /// be connected.
    pub(crate) async fn link_elsewhere(self: &Arc<Self>, link: &MemberLink) -> Option<MemberLink> {
        let order: Vec<usize> = {
            let state = self.links.state();
            let others = state.others(link.member());
            let failed = |number: usize| state.members[number].failed.filter(|failed| failed.elapsed() < AVOID_FOR);
            let mut well: Vec<usize> = others.iter().copied().filter(|number| failed(*number).is_none()).collect();
            if well.is_empty() {
                // All others have failed lately: the one whose failure is oldest, if it is
                // connected.
                let connected = others.into_iter().filter(|number| state.members[*number].link.is_some());
                well.extend(connected.min_by_key(|number| failed(*number)));
            }
            well
        };
        let found = self.first_of(&order).await.ok();
        self.close_idle_later();
        found
    }

    /// Starts the task that closes idle links to members that are not in use, unless it runs or
    /// there is none to close. Called when a link was used beside the one in use.
    pub(crate) fn close_idle_later(self: &Arc<Self>) {
        let begins = {
            let mut state = self.links.state();
            state.close_idle() && !std::mem::replace(&mut state.is_sweeping, true)
        };
        if begins {
            tokio::spawn(sweep(TaskGuard::new(self, |state| &mut state.is_sweeping)));
        }
    }

    /// The endpoint of the member in use, or of the one that is tried next.
    pub(crate) fn member_in_use(&self) -> String {
        self.links.state().name()
    }

    /// Connects to a member in a task of its own, unless it is connected or such a task runs.
    ///
    /// The task stores its result in the member and wakes those who wait. So an attempt that a
    /// request has started goes on for others when the request is dropped.
    fn dial(self: &Arc<Self>, number: usize) {
        let Source::Options(_) = &self.links.source else { return };
        let mut state = self.links.state();
        let is_shut = state.is_shut;
        let member = &mut state.members[number];
        let Some(endpoint) = member.endpoint.clone() else { return };
        if is_shut || member.link().is_some() || std::mem::replace(&mut member.is_dialed, true) {
            drop(state);
            return self.links.notify();
        }
        drop(state);
        let dialed = DialGuard { core: self.clone(), number };
        let dialing = async move {
            let core = &dialed.core;
            let Source::Options(options) = &core.links.source else { return };
            let connected = options.connect(number, &endpoint, core.tokens.token.clone()).await;
            if let Err(failure) = &connected {
                tracing::debug!(parent: None, member = %endpoint.text, error = %failure, "connecting to etcd failed");
            }
            let mut state = core.links.state();
            let member = &mut state.members[number];
            match connected {
                Ok(link) => (member.link, member.failed, member.failure) = (Some(link), None, None),
                Err(failure) => {
                    (member.failed, member.failure) = (Some(Instant::now()), Some(failure));
                    member.failures += 1;
                }
            }
        };
        let task = tokio::spawn(dialing).abort_handle();
        self.links.store_task(task, |state| &mut state.members[number].dialing);
    }

    /// Searches all members once. The first that answers is then in use.
    ///
    /// # Errors
    /// The failure of the member that failed last, or that no member is known.
    async fn search_round(self: &Arc<Self>) -> Result<(), Failure> {
        let order = self.links.state().order();
        if order.is_empty() {
            return Err(self.links.state().no_member_failure().while_doing("finding the members of etcd"));
        }
        let link = self.first_of(&order).await?;
        self.links.state().current = link.member();
        Ok(())
    }

    /// The first of these members that answers. Each is dialed [`HEDGE_DELAY`] after the one before
    /// it, or as soon as all before it have failed. Members that were dialed go on connecting when
    /// another one has answered.
    ///
    /// # Errors
    /// The failure of the member that failed last.
    async fn first_of(self: &Arc<Self>, order: &[usize]) -> Result<MemberLink, Failure> {
        // Subscribed before the first attempt, so that no change is missed.
        let mut changed = self.links.changed.subscribe();
        let mut before = Vec::new();
        let mut last = None;
        for &number in order {
            before.push((number, self.links.state().members[number].failures));
            self.dial(number);
            let beside = sleep(HEDGE_DELAY);
            tokio::pin!(beside);
            let is_last = before.len() == order.len();
            loop {
                let mut waiting = false;
                {
                    let mut state = self.links.state();
                    for (number, failures) in &before {
                        let member = &mut state.members[*number];
                        if let Some(link) = member.link() {
                            return Ok(link.clone());
                        }
                        // Also false for a connection that ended immediately, or an attempt whose
                        // runtime has ended.
                        waiting |= member.is_dialed;
                        if member.failures != *failures {
                            last.clone_from(&member.failure);
                        }
                    }
                }
                if !waiting {
                    break;
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = &mut beside, if !is_last => break,
                }
            }
        }
        let gone = || Failure::connect_failed("the connection ended immediately".into());
        Err(last.unwrap_or_else(|| gone().at(&self.member_in_use()).while_doing("connecting to etcd")))
    }
}

/// Closes idle links once in a while, until only the one in use is left.
async fn sweep(sweeping: TaskGuard) {
    loop {
        sleep(IDLE_TIMEOUT + Duration::from_secs(1)).await;
        let Some(core) = sweeping.core.upgrade() else { return };
        if !core.links.state().close_idle() {
            return;
        }
    }
}

/// The search: looks for a member that answers, for as long as requests want one. Ends after the
/// first that answers, or [`WANTED_FOR`] after the last request.
///
/// After each round that failed, the requests that wait fail with its failure; later ones wait for
/// the next round.
async fn connect(connecting: ConnectGuard) {
    let core = &connecting.0;
    // Connections that end immediately after they were made are not made again without a pause.
    sleep(core.links.search_delay()).await;
    loop {
        #[cfg(feature = "srv")]
        core.find_members().await;
        let result = core.search_round().await;
        if result.is_ok() {
            let core = core.clone();
            // The flag is cleared before the connection is announced: whoever is woken by the
            // announcement may need another search.
            drop(connecting);
            core.links.connected.send_modify(|count| *count += 1);
            core.close_idle_later();
            core.start_learning();
            return;
        }
        let again = core.links.round_failed(result.err());
        let is_wanted = core.links.state().last_wanted.elapsed() < WANTED_FOR;
        core.links.notify();
        if !is_wanted {
            return;
        }
        sleep_until(again).await;
    }
}

/// Tells those who wait that the search is over however it ends, also with its runtime.
struct ConnectGuard(Arc<Core>);

impl Drop for ConnectGuard {
    fn drop(&mut self) {
        self.0.links.state().is_connecting = false;
        self.0.links.notify();
    }
}

/// Tells those who wait that an attempt is over however it ends, also with its runtime.
struct DialGuard {
    core: Arc<Core>,
    number: usize,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        self.core.links.state().members[self.number].is_dialed = false;
        self.core.links.notify();
    }
}
