//! Which member is in use, and what is known of each member.
//!
//! **When a connection is closed**: on a transport error, GOAWAY, a failed PING, or when a request
//! was sent and nothing at all was heard for the request timeout. A late request over a connection
//! that is heard changes nothing.
//!
//! **When another member is used**: when the connection of the one in use has ended, when its
//! member says that it cannot serve, or when a second try at another member was answered while the
//! first one's connection was silent.
//!
//! **Locks.** `state` is held for a few instructions only: never across an await, an event, the
//! abort of a task or the `Drop` of a guard, which takes the same lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::etcd::failure::{Failure, Fault};
use crate::etcd::link::MemberLink;
use crate::etcd::members::endpoint::Endpoint;
use crate::etcd::{Core, Source};

/// How long a member may take before another one is tried beside it. Far longer than an answer
/// within a region takes, and short against the request timeout.
pub(crate) const HEDGE_DELAY: Duration = Duration::from_millis(300);
/// A link to a member that is not in use is closed after this time without a request.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For this long a member that failed is not used beside another one.
pub(crate) const AVOID_FOR: Duration = Duration::from_secs(5);
/// A connection that lasted this long was stable: when it ends, the next search starts immediately.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// The shortest pause between two searches of all members. The first wait of a backoff is zero.
const MIN_ROUND_PAUSE: Duration = Duration::from_millis(20);
/// Searching goes on for this long after the last request that wanted a link.
pub(crate) const WANTED_FOR: Duration = Duration::from_secs(10);

/// The links of one [`Etcd`](crate::etcd::Etcd).
pub(crate) struct MemberLinks {
    /// Where the members come from.
    pub(crate) source: Source,
    state: Mutex<MembersState>,
    /// The last SRV lookup.
    #[cfg(feature = "srv")]
    pub(crate) srv_state: crate::etcd::members::srv::SrvState,
    /// Counts changes of members, for those who wait for one.
    pub(crate) changed: watch::Sender<u64>,
    /// Counts the links that came into use.
    pub(crate) connected: watch::Sender<u64>,
}

/// What is known of the members, and which background tasks run.
///
/// Invariants: `present` holds each number once; `current` is in `present`, or 0 while there is no
/// member; numbers index `members`, which only grows.
#[expect(clippy::struct_excessive_bools, reason = "each is of a task of its own")]
pub(crate) struct MembersState {
    /// The number of the member in use.
    pub(crate) current: usize,
    /// All members that were ever known. A member keeps its number.
    pub(crate) members: Vec<Member>,
    /// The numbers of the members that are tried, in their order.
    pub(crate) present: Vec<usize>,
    /// The members of the options.
    pub(crate) configured: Vec<Endpoint>,
    /// The members of the SRV records.
    pub(crate) found: Vec<Endpoint>,
    /// The members that etcd itself has named.
    pub(crate) learned: Vec<Endpoint>,
    /// Why no member is known, while none is.
    pub(crate) no_members: Option<Failure>,
    /// Whether the task that reads SRV records runs, and its handle.
    #[cfg(feature = "srv")]
    pub(crate) is_finding: bool,
    pub(crate) finding: Option<AbortHandle>,
    /// Whether the task that asks etcd for its members runs, and its handle.
    pub(crate) is_learning: bool,
    pub(crate) learning: Option<AbortHandle>,
    /// Whether the search for a member runs, and its handle.
    pub(crate) is_connecting: bool,
    pub(crate) connecting: Option<AbortHandle>,
    /// Whether all users are gone. No task is started then.
    pub(crate) is_shut: bool,
    /// When a link last came into use.
    last_connected: Option<Instant>,
    /// Whether the task that closes idle links runs.
    pub(crate) is_sweeping: bool,
    /// When a request last wanted a link.
    pub(crate) last_wanted: Instant,
    /// Counts the searches that found no member.
    pub(crate) failed_rounds: u64,
    /// Why the last of them failed.
    pub(crate) failure: Option<Failure>,
    /// The pauses between searches.
    pub(crate) backoff: Backoff,
    /// The start of the time that `backoff` is given.
    pub(crate) began: Instant,
}

/// One member. Survives while it is in no source any more, so that numbers stay valid.
#[derive(Default)]
pub(crate) struct Member {
    /// Its endpoint; `None` for a user's own client.
    pub(crate) endpoint: Option<Endpoint>,
    /// Its link. One that has ended is removed by [`Member::link`].
    pub(crate) link: Option<MemberLink>,
    /// Whether a task connects to it, and its handle.
    pub(crate) is_dialed: bool,
    pub(crate) dialing: Option<AbortHandle>,
    /// Counts the attempts to connect that failed.
    pub(crate) failures: u64,
    /// Why the last attempt failed.
    pub(crate) failure: Option<Failure>,
    /// When it last failed, in connecting or in serving.
    pub(crate) failed: Option<Instant>,
}

impl Member {
    /// Its link, if its connection lives.
    pub(crate) fn link(&mut self) -> Option<&MemberLink> {
        if self.link.as_ref().is_some_and(MemberLink::has_ended) {
            self.link = None;
        }
        self.link.as_ref()
    }
}

impl MemberLinks {
    /// Nothing is connected yet, except a user's own client.
    pub(crate) fn new(source: Source) -> Self {
        let (mut members, mut configured) = (Vec::new(), Vec::new());
        match &source {
            Source::Options(options) => configured = options.configured(),
            Source::Client(client) => {
                let link = Some(MemberLink::from_client((**client).clone()));
                members.push(Member { link, ..Member::default() });
            }
        }
        let (now, backoff) = (Instant::now(), Backoff::new(fastrand::u64(..)));
        let present = (0..members.len()).collect();
        let mut state = MembersState {
            current: 0,
            members,
            present,
            configured,
            found: Vec::new(),
            learned: Vec::new(),
            no_members: None,
            #[cfg(feature = "srv")]
            is_finding: false,
            finding: None,
            is_learning: false,
            learning: None,
            is_connecting: false,
            connecting: None,
            is_shut: false,
            last_connected: None,
            is_sweeping: false,
            last_wanted: now,
            failed_rounds: 0,
            failure: None,
            backoff,
            began: now,
        };
        if let Source::Options(_) = &source {
            state.rebuild();
        }
        Self {
            source,
            state: Mutex::new(state),
            #[cfg(feature = "srv")]
            srv_state: crate::etcd::members::srv::SrvState::new(),
            changed: watch::Sender::new(0),
            connected: watch::Sender::new(0),
        }
    }

    /// Nothing panics while the lock is held, so that a poisoned lock still guards a valid state.
    pub(crate) fn state(&self) -> MutexGuard<'_, MembersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before a search starts: zero where the last connection was stable,
    /// otherwise a backoff. A peer that accepts and closes connections would otherwise be dialed in
    /// a loop.
    pub(crate) fn search_delay(&self) -> Duration {
        let mut state = self.state();
        let now = state.began.elapsed();
        let is_good = state.last_connected.is_none_or(|last_connected| last_connected.elapsed() >= STABLE_AFTER);
        state.last_connected = Some(Instant::now());
        if is_good {
            state.backoff.reset();
            return Duration::ZERO;
        }
        state.backoff.fail(now, false)
    }

    /// Records that a search found no member. Gives the time of the next one.
    pub(crate) fn round_failed(&self, failure: Option<Failure>) -> Instant {
        let mut state = self.state();
        let now = state.began.elapsed();
        let wait = state.backoff.fail(now, false);
        (state.failed_rounds, state.failure) = (state.failed_rounds + 1, failure);
        Instant::now() + wait.max(MIN_ROUND_PAUSE)
    }

    /// Wakes those who wait for a change of members.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Uses the next member: this one cannot serve now. Its connection stays for what still runs
    /// over it, such as watches that the member still serves.
    pub(crate) fn use_next(&self, link: &MemberLink) {
        let mut state = self.state();
        // A newer connection of the same member has not failed yet: then nothing changes.
        let is_known = |known: &MemberLink| known.is_same(link) || known.has_ended();
        if state.current == link.member() && state.members[link.member()].link.as_ref().is_none_or(is_known) {
            if state.has_priorities() {
                // With priorities the next search would start with this member again.
                state.members[link.member()].failed = Some(Instant::now());
            }
            state.current = state.next();
        }
    }

    /// Stores the handle of a task, so that [`MemberLinks::shut_down`] ends it. Aborts the task
    /// immediately where that has happened already.
    pub(crate) fn store_task(
        &self,
        task: AbortHandle,
        place: impl FnOnce(&mut MembersState) -> &mut Option<AbortHandle>,
    ) {
        let mut state = self.state();
        if state.is_shut {
            // Aborting may drop the task here and now, and its guard takes the lock.
            drop(state);
            return task.abort();
        }
        *place(&mut state) = Some(task);
    }

    /// Ends all tasks: all users are gone. Called by the `Drop` of the last user.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state();
        state.is_shut = true;
        let mut tasks = state.members.iter_mut().filter_map(|member| member.dialing.take()).collect::<Vec<_>>();
        let MembersState { connecting, finding, learning, .. } = &mut *state;
        tasks.extend([connecting, finding, learning].into_iter().filter_map(Option::take));
        // As above: no lock while tasks are aborted.
        drop(state);
        tasks.into_iter().for_each(|task| task.abort());
    }

    /// Uses this member: it has answered while the connection of the one in use was silent. Not if
    /// it has left the list or has another link meanwhile.
    pub(crate) fn switch_to(&self, link: &MemberLink) {
        let mut state = self.state();
        let is_present = state.present.contains(&link.member());
        if is_present && state.members[link.member()].link().is_some_and(|known| known.is_same(link)) {
            state.current = link.member();
        }
    }

    /// Marks the member as failed before a try beside another one, so that the next such try goes
    /// to the next member. [`MemberLinks::clear_failed`] takes the mark away when it answers.
    pub(crate) fn mark_failed(&self, link: &MemberLink) {
        self.state().members[link.member()].failed = Some(Instant::now());
    }

    /// Takes that mark away: the member has answered.
    pub(crate) fn clear_failed(&self, link: &MemberLink) {
        self.state().members[link.member()].failed = None;
    }

    /// Closes a dead connection, with all requests in flight over it, and uses the next member if
    /// this one was in use. Does not touch a newer link of the same member.
    pub(crate) fn close(&self, link: &MemberLink, why: &str) {
        link.close(why);
        let mut state = self.state();
        let member = &mut state.members[link.member()];
        if member.link.as_ref().is_some_and(|known| known.is_same(link)) {
            member.link = None;
            if state.current == link.member() {
                state.current = state.next();
            }
        }
    }
}

impl MembersState {
    /// Closes idle links to members that are not in use. Whether any such link is left.
    pub(crate) fn close_idle(&mut self) -> bool {
        let current = self.current;
        let others = self.members.iter_mut().enumerate().filter(|(number, _)| *number != current);
        let mut left = false;
        for (_, member) in others {
            if member.link().is_some_and(|link| link.is_idle(IDLE_TIMEOUT)) {
                member.link = None;
            }
            left |= member.link.is_some();
        }
        left
    }

    /// The link in use, if its connection lives.
    pub(crate) fn current(&mut self) -> Option<MemberLink> {
        let member = self.members.get_mut(self.current)?;
        let had = member.link.is_some();
        let link = member.link().cloned();
        if had && link.is_none() {
            // The other members are tried first: this one has just ended the connection.
            self.current = self.next();
        }
        link
    }
}

impl Core {
    /// Draws the consequences of a failure over a link, for the request that was sent at `asked`.
    /// Called once for each failed try.
    ///
    /// | failure | consequence |
    /// |---|---|
    /// | the connection has ended | none here: [`MembersState::current`] finds out. The failure gets the reason for which we closed it. |
    /// | [`Fault::Member`] | the next member is used |
    /// | [`Fault::Late`], and nothing was heard for the request timeout, not even a PING | the connection is closed |
    /// | anything else | none |
    ///
    /// Gives the failure as it is then known.
    pub(crate) fn on_failure(&self, link: &MemberLink, asked: Instant, failure: Failure) -> Failure {
        let failure = self.reclassify_denied(failure);
        if link.has_ended() {
            // A connection that was closed at this side fails its requests as if the peer had
            // closed it.
            let failure = link.close_reason().map_or(failure, Failure::connect_failed);
            return failure.with_fault(Fault::Connection);
        }
        match failure.fault {
            Fault::Member => self.links.use_next(link),
            Fault::Late if link.silent_for(asked) >= self.request_timeout() && link.is_dead_since(asked) => {
                let why =
                    format!("nothing was received over the connection for {} ms", self.request_timeout().as_millis());
                self.links.close(link, &why);
                return failure.with_fault(Fault::Connection);
            }
            Fault::Late | Fault::Request | Fault::Connection => {}
        }
        failure
    }
}

/// Marks a background task as ended however it ends, also with its runtime, so that it can start again.
///
/// Made before the task is spawned: a runtime that ends drops its tasks unpolled, and `Drop` takes the lock.
pub(crate) struct TaskGuard {
    /// Weak, so that the task ends with its users.
    pub(crate) core: Weak<Core>,
    /// The flag that says that the task runs.
    flag: fn(&mut MembersState) -> &mut bool,
}

impl TaskGuard {
    /// A guard of the task that this flag stands for.
    pub(crate) fn new(core: &Arc<Core>, flag: fn(&mut MembersState) -> &mut bool) -> Self {
        Self { core: Arc::downgrade(core), flag }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            *(self.flag)(&mut core.links.state()) = false;
        }
    }
}
