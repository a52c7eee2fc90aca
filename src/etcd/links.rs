//! Which member is spoken to, and the connections to the members: at most one to each, made by one task for all who need it.
//!
//! A connection is left on a transport error, a GOAWAY, a failed ping, or when something was asked over it and nothing at all
//! was heard for the request timeout. A request that is late while the connection is heard changes nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::failure::{Failure, Fault};
use super::link::Link;
use super::{Core, Source};
use crate::backoff::Backoff;

/// How long a member may take to answer before another is tried beside it.
pub(super) const HEDGE: Duration = Duration::from_millis(300);
/// A connection to a member that is not in use is closed after so long without a request.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// A member that could not be reached is not tried again for so long, where it is only to help another.
pub(super) const AVOIDED: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(1);
/// Between two rounds over all members, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// Connecting goes on for so long after somebody last wanted a connection.
pub(super) const WANTED: Duration = Duration::from_secs(10);

pub(super) struct Links {
    pub(super) source: Source,
    state: Mutex<State>,
    /// Counts what happens to members, for those who wait.
    pub(super) changed: watch::Sender<u64>,
    /// Counts the connections that became the one in use.
    pub(super) connected: watch::Sender<u64>,
}

pub(super) struct State {
    /// The member in use.
    pub(super) current: usize,
    pub(super) members: Vec<Member>,
    /// A task is looking for a member that answers.
    pub(super) is_connecting: bool,
    pub(super) connecting: Option<AbortHandle>,
    /// Nobody uses this etcd any more.
    pub(super) is_shut: bool,
    /// When a connection was last found.
    found: Option<Instant>,
    /// A task closes connections that nobody uses.
    pub(super) is_sweeping: bool,
    pub(super) wanted: Instant,
    /// Counts the rounds over all members that found none, and how the last one failed.
    pub(super) failed_rounds: u64,
    pub(super) failure: Option<Failure>,
    pub(super) backoff: Backoff,
    pub(super) began: Instant,
}

#[derive(Default)]
pub(super) struct Member {
    pub(super) link: Option<Link>,
    pub(super) is_dialed: bool,
    pub(super) dialing: Option<AbortHandle>,
    /// Counts the attempts that failed.
    pub(super) failures: u64,
    pub(super) failure: Option<Failure>,
    pub(super) failed: Option<Instant>,
}

impl Member {
    pub(super) fn link(&mut self) -> Option<&Link> {
        if self.link.as_ref().is_some_and(Link::is_over) {
            self.link = None;
        }
        self.link.as_ref()
    }
}

impl Links {
    pub(super) fn new(source: Source) -> Self {
        let mut members: Vec<Member> = Vec::new();
        match &source {
            Source::Options(options) => members.resize_with(options.endpoints().len(), Member::default),
            Source::Client(client) => {
                let link = Some(Link::of_client((**client).clone()));
                members.push(Member { link, ..Member::default() });
            }
        }
        let (now, backoff) = (Instant::now(), Backoff::new(fastrand::u64(..)));
        let state = State {
            current: 0,
            members,
            is_connecting: false,
            connecting: None,
            is_shut: false,
            found: None,
            is_sweeping: false,
            wanted: now,
            failed_rounds: 0,
            failure: None,
            backoff,
            began: now,
        };
        Self { source, state: Mutex::new(state), changed: watch::Sender::new(0), connected: watch::Sender::new(0) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the next search, which begins at once where the last connection was a good one.
    pub(super) fn pause(&self) -> Duration {
        let mut state = self.state();
        let now = state.began.elapsed();
        let is_good = state.found.is_none_or(|found| found.elapsed() >= GOOD);
        state.found = Some(Instant::now());
        if is_good {
            state.backoff.reset();
            return Duration::ZERO;
        }
        state.backoff.fail(now, false)
    }

    /// A round over all members has found none; when the next one may begin.
    pub(super) fn failed(&self, failure: Option<Failure>) -> Instant {
        let mut state = self.state();
        let now = state.began.elapsed();
        let wait = state.backoff.fail(now, false);
        (state.failed_rounds, state.failure) = (state.failed_rounds + 1, failure);
        Instant::now() + wait.max(PAUSE)
    }

    pub(super) fn tell(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// This member cannot serve now: the next one is used. Its connection stays for what still runs over it.
    pub(super) fn move_on(&self, link: &Link) {
        let mut state = self.state();
        // Not where it has a newer connection, of which nothing is known yet.
        let is_known = |known: &Link| known.is(link) || known.is_over();
        if state.current == link.member() && state.members[link.member()].link.as_ref().is_none_or(is_known) {
            state.current = (state.current + 1) % state.members.len();
        }
    }

    /// Keeps the handle of a task, or ends the task where nobody uses this etcd any more.
    pub(super) fn keep(&self, task: AbortHandle, place: impl FnOnce(&mut State) -> &mut Option<AbortHandle>) {
        let mut state = self.state();
        if state.is_shut {
            drop(state);
            return task.abort();
        }
        *place(&mut state) = Some(task);
    }

    /// Ends what is done for users who are all gone.
    pub(super) fn shut(&self) {
        let mut state = self.state();
        state.is_shut = true;
        let dialing = state.members.iter_mut().filter_map(|member| member.dialing.take()).collect::<Vec<_>>();
        let connecting = state.connecting.take();
        drop(state);
        dialing.into_iter().chain(connecting).for_each(|task| task.abort());
    }

    /// This member answers, while the one in use does not.
    pub(super) fn prefer(&self, link: &Link) {
        let mut state = self.state();
        if state.members[link.member()].link().is_some_and(|known| known.is(link)) {
            state.current = link.member();
        }
    }

    /// This member is asked beside another one, and may not answer either: it is not the next one to be asked so.
    pub(super) fn avoid(&self, link: &Link) {
        self.state().members[link.member()].failed = Some(Instant::now());
    }

    /// It has answered.
    pub(super) fn trust(&self, link: &Link) {
        self.state().members[link.member()].failed = None;
    }

    /// A member's connection is dead: it is closed, with all that runs over it.
    pub(super) fn leave(&self, link: &Link, why: &str) {
        link.close(why);
        let mut state = self.state();
        let member = &mut state.members[link.member()];
        if member.link.as_ref().is_some_and(|known| known.is(link)) {
            member.link = None;
            if state.current == link.member() {
                state.current = (state.current + 1) % state.members.len();
            }
        }
    }
}

impl State {
    /// Closes connections to members that are not in use. Whether any is left.
    pub(super) fn sweep(&mut self) -> bool {
        let current = self.current;
        let others = self.members.iter_mut().enumerate().filter(|(number, _)| *number != current);
        let mut left = false;
        for (_, member) in others {
            if member.link().is_some_and(|link| link.is_idle(IDLE)) {
                member.link = None;
            }
            left |= member.link.is_some();
        }
        left
    }

    /// The connection in use, if it is well.
    pub(super) fn current(&mut self) -> Option<Link> {
        let current = self.current;
        let had = self.members[current].link.is_some();
        let link = self.members[current].link().cloned();
        if had && link.is_none() {
            // The others first: this one has just ended our connection.
            self.current = (current + 1) % self.members.len();
        }
        link
    }
}

impl Core {
    /// What a failure over a link changes; the failure as it is then known. `asked` is when the request was made.
    pub(super) fn blame(&self, link: &Link, asked: Instant, failure: Failure) -> Failure {
        let failure = self.of_anonymous(failure);
        if link.is_over() {
            // What was closed here looks as if the other side had done it.
            let failure = link.why().map_or(failure, Failure::unconnected);
            return failure.with_fault(Fault::Connection);
        }
        match failure.fault {
            Fault::Member => self.links.move_on(link),
            Fault::Late if link.silence(asked) >= self.request_timeout() && link.is_dead_since(asked) => {
                let why = format!("asked, and nothing was heard for {} ms", self.request_timeout().as_millis());
                self.links.leave(link, &why);
                return failure.with_fault(Fault::Connection);
            }
            Fault::Late | Fault::Request | Fault::Connection => {}
        }
        failure
    }
}
