//! Which member is spoken to, and the connections to the members: at most one to each, made by one task for all who need it.
//!
//! A connection is left on a transport error, a GOAWAY, a failed ping, or when something was asked over it and nothing at all
//! was heard for the request timeout. A request that is late while the connection is heard changes nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::etcd::failure::{Failure, Fault};
use crate::etcd::link::MemberLink;
use crate::etcd::members::endpoint::Endpoint;
use crate::etcd::{Core, Source};

/// How long a member may take to answer before another is tried beside it.
pub(crate) const HEDGE_DELAY: Duration = Duration::from_millis(300);
/// A connection to a member that is not in use is closed after so long without a request.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A member that could not be reached is not tried again for so long, where it is only to help another.
pub(crate) const AVOID_FOR: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Between two rounds over all members, at least.
const MIN_ROUND_PAUSE: Duration = Duration::from_millis(20);
/// ConnectGuard goes on for so long after somebody last last_wanted a connection.
pub(crate) const WANTED_FOR: Duration = Duration::from_secs(10);

pub(crate) struct MemberLinks {
    pub(crate) source: Source,
    state: Mutex<MembersState>,
    #[cfg(feature = "srv")]
    pub(crate) srv_state: crate::etcd::members::srv::SrvState,
    /// Counts what happens to members, for those who wait.
    pub(crate) changed: watch::Sender<u64>,
    /// Counts the connections that became the one in use.
    pub(crate) connected: watch::Sender<u64>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is of a task of its own")]
pub(crate) struct MembersState {
    /// The member in use.
    pub(crate) current: usize,
    /// All that were ever known: a member's number stays its own.
    pub(crate) members: Vec<Member>,
    /// The members that are tried, in their order.
    pub(crate) present: Vec<usize>,
    pub(crate) configured: Vec<Endpoint>,
    /// What SRV records name, and what etcd itself names.
    pub(crate) found: Vec<Endpoint>,
    pub(crate) learned: Vec<Endpoint>,
    /// Why no member is known, while there is none.
    pub(crate) no_members: Option<Failure>,
    /// Tasks that keep the members known up to date.
    #[cfg(feature = "srv")]
    pub(crate) is_finding: bool,
    pub(crate) finding: Option<AbortHandle>,
    pub(crate) is_learning: bool,
    pub(crate) learning: Option<AbortHandle>,
    /// A task is looking for a member that answers.
    pub(crate) is_connecting: bool,
    pub(crate) connecting: Option<AbortHandle>,
    /// Nobody uses this etcd any more.
    pub(crate) is_shut: bool,
    /// When a connection was last made.
    last_connected: Option<Instant>,
    /// A task closes connections that nobody uses.
    pub(crate) is_sweeping: bool,
    pub(crate) last_wanted: Instant,
    /// Counts the rounds over all members that found none, and how the last one failed.
    pub(crate) failed_rounds: u64,
    pub(crate) failure: Option<Failure>,
    pub(crate) backoff: Backoff,
    pub(crate) began: Instant,
}

#[derive(Default)]
pub(crate) struct Member {
    /// None of the user's own client.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) link: Option<MemberLink>,
    pub(crate) is_dialed: bool,
    pub(crate) dialing: Option<AbortHandle>,
    /// Counts the attempts that failed.
    pub(crate) failures: u64,
    pub(crate) failure: Option<Failure>,
    pub(crate) failed: Option<Instant>,
}

impl Member {
    pub(crate) fn link(&mut self) -> Option<&MemberLink> {
        if self.link.as_ref().is_some_and(MemberLink::has_ended) {
            self.link = None;
        }
        self.link.as_ref()
    }
}

impl MemberLinks {
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

    pub(crate) fn state(&self) -> MutexGuard<'_, MembersState> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the next search, which begins at once where the last connection was a good one.
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

    /// A round over all members has found none; when the next one may begin.
    pub(crate) fn round_failed(&self, failure: Option<Failure>) -> Instant {
        let mut state = self.state();
        let now = state.began.elapsed();
        let wait = state.backoff.fail(now, false);
        (state.failed_rounds, state.failure) = (state.failed_rounds + 1, failure);
        Instant::now() + wait.max(MIN_ROUND_PAUSE)
    }

    pub(crate) fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// This member cannot serve now: the next one is used. Its connection stays for what still runs over it.
    pub(crate) fn use_next(&self, link: &MemberLink) {
        let mut state = self.state();
        // Not where it has a newer connection, of which nothing is known yet.
        let is_known = |known: &MemberLink| known.is_same(link) || known.has_ended();
        if state.current == link.member() && state.members[link.member()].link.as_ref().is_none_or(is_known) {
            if state.has_priorities() {
                // The next search is not to begin with this one again.
                state.members[link.member()].failed = Some(Instant::now());
            }
            state.current = state.next();
        }
    }

    /// Keeps the handle of a task, or ends the task where nobody uses this etcd any more.
    pub(crate) fn store_task(
        &self,
        task: AbortHandle,
        place: impl FnOnce(&mut MembersState) -> &mut Option<AbortHandle>,
    ) {
        let mut state = self.state();
        if state.is_shut {
            drop(state);
            return task.abort();
        }
        *place(&mut state) = Some(task);
    }

    /// Ends what is done for users who are all gone.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state();
        state.is_shut = true;
        let mut tasks = state.members.iter_mut().filter_map(|member| member.dialing.take()).collect::<Vec<_>>();
        let MembersState { connecting, finding, learning, .. } = &mut *state;
        tasks.extend([connecting, finding, learning].into_iter().filter_map(Option::take));
        drop(state);
        tasks.into_iter().for_each(|task| task.abort());
    }

    /// This member answers, while the one in use does not.
    pub(crate) fn switch_to(&self, link: &MemberLink) {
        let mut state = self.state();
        let is_present = state.present.contains(&link.member());
        if is_present && state.members[link.member()].link().is_some_and(|known| known.is_same(link)) {
            state.current = link.member();
        }
    }

    /// This member is asked beside another one, and may not answer either: it is not the next one to be asked so.
    pub(crate) fn mark_failed(&self, link: &MemberLink) {
        self.state().members[link.member()].failed = Some(Instant::now());
    }

    /// It has answered.
    pub(crate) fn clear_failed(&self, link: &MemberLink) {
        self.state().members[link.member()].failed = None;
    }

    /// A member's connection is dead: it is closed, with all that runs over it.
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
    /// Closes connections to members that are not in use. Whether any is left.
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

    /// The connection in use, if it is well.
    pub(crate) fn current(&mut self) -> Option<MemberLink> {
        let member = self.members.get_mut(self.current)?;
        let had = member.link.is_some();
        let link = member.link().cloned();
        if had && link.is_none() {
            // The others first: this one has just ended our connection.
            self.current = self.next();
        }
        link
    }
}

impl Core {
    /// What a failure over a link changes; the failure as it is then known. `asked` is when the request was made.
    pub(crate) fn on_failure(&self, link: &MemberLink, asked: Instant, failure: Failure) -> Failure {
        let failure = self.reclassify_denied(failure);
        if link.has_ended() {
            // What was closed here looks as if the other side had done it.
            let failure = link.close_reason().map_or(failure, Failure::connect_failed);
            return failure.with_fault(Fault::Connection);
        }
        match failure.fault {
            Fault::Member => self.links.use_next(link),
            Fault::Late if link.silent_for(asked) >= self.request_timeout() && link.is_dead_since(asked) => {
                let why = format!("asked, and nothing was heard for {} ms", self.request_timeout().as_millis());
                self.links.close(link, &why);
                return failure.with_fault(Fault::Connection);
            }
            Fault::Late | Fault::Request | Fault::Connection => {}
        }
        failure
    }
}
