//! Which member is spoken to, and the connections to the members: at most one to each, made by one task for all who need it.
//!
//! A connection is left on a transport error, a GOAWAY, a failed ping, or when something was asked over it and nothing at all
//! was heard for the request timeout. A request that is late while the connection is heard changes nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::failure::{Failure, Fault};
use super::link::Link;
use super::{Core, Source};
use crate::backoff::Backoff;

/// How long a member may take to answer before another is tried beside it.
pub(super) const HEDGE: Duration = Duration::from_millis(300);
/// A connection to a member that is not in use is closed after so long without a request.
const IDLE: Duration = Duration::from_secs(30);
/// A member that could not be reached is not tried again for so long, where it is only to help another.
const AVOIDED: Duration = Duration::from_secs(5);
/// Between two rounds over all members, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// Connecting goes on for so long after somebody last wanted a connection.
const WANTED: Duration = Duration::from_secs(10);

pub(super) struct Links {
    pub(super) source: Source,
    state: Mutex<State>,
    /// Counts what happens to members, for those who wait.
    changed: watch::Sender<u64>,
    /// Counts the connections that became the one in use.
    pub(super) connected: watch::Sender<u64>,
}

struct State {
    /// The member in use.
    current: usize,
    members: Vec<Member>,
    /// A task is looking for a member that answers.
    is_connecting: bool,
    connecting: Option<AbortHandle>,
    /// A task closes connections that nobody uses.
    is_sweeping: bool,
    wanted: Instant,
    /// Counts the rounds over all members that found none, and how the last one failed.
    failed_rounds: u64,
    failure: Option<Failure>,
    backoff: Backoff,
    began: Instant,
}

#[derive(Default)]
struct Member {
    link: Option<Link>,
    is_dialed: bool,
    dialing: Option<AbortHandle>,
    /// Counts the attempts that failed.
    failures: u64,
    failure: Option<Failure>,
    failed: Option<Instant>,
}

impl Member {
    fn link(&mut self) -> Option<&Link> {
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
            is_sweeping: false,
            wanted: now,
            failed_rounds: 0,
            failure: None,
            backoff,
            began: now,
        };
        Self { source, state: Mutex::new(state), changed: watch::Sender::new(0), connected: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round over all members has found none; when the next one may begin.
    fn failed(&self, failure: Option<Failure>) -> Instant {
        let mut state = self.state();
        let now = state.began.elapsed();
        let wait = state.backoff.fail(now, false);
        (state.failed_rounds, state.failure) = (state.failed_rounds + 1, failure);
        Instant::now() + wait.max(PAUSE)
    }

    fn tell(&self) {
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

    /// Ends what is done for users who are all gone.
    pub(super) fn shut(&self) {
        let mut state = self.state();
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
    fn sweep(&mut self) -> bool {
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
    fn current(&mut self) -> Option<Link> {
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
    /// The connection in use, as soon as there is one.
    ///
    /// # Errors
    /// How the search that was under way, or else the next one, has failed at all members.
    pub(super) async fn link(self: &Arc<Self>) -> Result<Link, Failure> {
        loop {
            let (rounds, mut changed) = {
                let mut state = self.links.state();
                if let Some(link) = state.current() {
                    return Ok(link);
                }
                state.wanted = Instant::now();
                if !std::mem::replace(&mut state.is_connecting, true) {
                    state.connecting = Some(tokio::spawn(connect(self.clone())).abort_handle());
                }
                (state.failed_rounds, self.links.changed.subscribe())
            };
            loop {
                // The sender lives as long as this does.
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
                    break; // its runtime has ended: this one's takes over
                }
            }
        }
    }

    /// A connection to another member than this link's, where there is one that may be well.
    pub(super) async fn elsewhere(self: &Arc<Self>, link: &Link) -> Option<Link> {
        let order: Vec<usize> = {
            let mut state = self.links.state();
            let count = state.members.len();
            let may_be_well = |number: &usize| {
                let member = &mut state.members[*number];
                member.link().is_some() || member.failed.is_none_or(|failed| failed.elapsed() >= AVOIDED)
            };
            (1..count).map(|step| (link.member() + step) % count).filter(may_be_well).collect()
        };
        let found = self.first_of(&order).await.ok();
        if found.is_some() && !std::mem::replace(&mut self.links.state().is_sweeping, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        found
    }

    /// The endpoint of the member in use, or of the next one.
    pub(super) fn member_in_use(&self) -> String {
        match &self.links.source {
            Source::Options(options) => options.endpoints()[self.links.state().current].clone(),
            Source::Client(_) => "etcd".into(),
        }
    }

    /// Connects to a member in a task of its own, unless one does already.
    fn dial(self: &Arc<Self>, number: usize) {
        let Source::Options(_) = &self.links.source else { return };
        {
            let mut state = self.links.state();
            let member = &mut state.members[number];
            if member.link().is_some() || std::mem::replace(&mut member.is_dialed, true) {
                drop(state);
                return self.links.tell();
            }
        }
        let core = self.clone();
        let dialing = async move {
            let _dialed = Dialed { core: &core, number };
            let Source::Options(options) = &core.links.source else { return };
            let dialed = options.connect(number, core.tokens.token.clone()).await;
            let mut state = core.links.state();
            let member = &mut state.members[number];
            match dialed {
                Ok(link) => (member.link, member.failed, member.failure) = (Some(link), None, None),
                Err(failure) => {
                    tracing::debug!(member = %options.endpoints()[number], error = %failure, "cannot connect to etcd");
                    (member.failed, member.failure) = (Some(Instant::now()), Some(failure));
                    member.failures += 1;
                }
            }
        };
        let task = tokio::spawn(dialing).abort_handle();
        self.links.state().members[number].dialing = Some(task);
    }

    /// A search for a member that answers, which is then in use.
    async fn round(self: &Arc<Self>) -> Result<(), Failure> {
        let order: Vec<usize> = {
            let state = self.links.state();
            let count = state.members.len();
            (0..count).map(|step| (state.current + step) % count).collect()
        };
        let link = self.first_of(&order).await?;
        self.links.state().current = link.member();
        Ok(())
    }

    /// The first of these members that answers: each is dialed a little later than the one before it, or as soon as that one
    /// has failed.
    async fn first_of(self: &Arc<Self>, order: &[usize]) -> Result<Link, Failure> {
        let mut changed = self.links.changed.subscribe();
        let mut before = Vec::new();
        let mut last = None;
        for &number in order {
            before.push((number, self.links.state().members[number].failures));
            self.dial(number);
            let beside = sleep(HEDGE);
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
                        // Also one whose connection ended as soon as it was made, or whose runtime has ended.
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
        let gone = || Failure::unconnected("the connection ended as soon as it was made".into());
        Err(last.unwrap_or_else(|| gone().at(&self.member_in_use()).while_doing("connecting to etcd")))
    }
}

/// Closes connections that nobody uses, until there is none but that in use.
async fn sweep(core: Weak<Core>) {
    loop {
        sleep(IDLE + Duration::from_secs(1)).await;
        let Some(core) = core.upgrade() else { return };
        let mut state = core.links.state();
        if !state.sweep() {
            state.is_sweeping = false;
            return;
        }
    }
}

/// Looks for a member that answers, for as long as somebody wants one.
async fn connect(core: Arc<Core>) {
    let connecting = Connecting(&core);
    loop {
        let result = core.round().await;
        if result.is_ok() {
            core.links.state().backoff.reset();
            drop(connecting);
            core.links.connected.send_modify(|count| *count += 1);
            return;
        }
        let again = core.links.failed(result.err());
        let is_wanted = core.links.state().wanted.elapsed() < WANTED && Arc::strong_count(&core) > 1;
        core.links.tell();
        if !is_wanted {
            return;
        }
        sleep_until(again).await;
    }
}

/// However the search ends, also with its runtime.
struct Connecting<'a>(&'a Core);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.links.state().is_connecting = false;
        self.0.links.tell();
    }
}

/// However an attempt ends, also with its runtime.
struct Dialed<'a> {
    core: &'a Core,
    number: usize,
}

impl Drop for Dialed<'_> {
    fn drop(&mut self) {
        self.core.links.state().members[self.number].is_dialed = false;
        self.core.links.tell();
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
