//! Authentication: one token for all connections and members.
//!
//! One task checks the password for all requests that wait for a token, at a rate that etcd can
//! bear (`pacing.rs`, pure). Tokens are numbered. A request remembers the number of the token that
//! it carried, so that a refusal is counted against that token and not against a newer one.
//!
//! ```text
//! request ─▶ token() ── there is one ─▶ its number ─▶ check_token(link) ─▶ sent
//!                └─ none: one check for all who wait
//! refused ─▶ refused(number) ─▶ the next request waits for another check
//! ```
//!
//! A token is carried to other connections and members. It is first checked there, because a member
//! that was wiped or restored holds a request with an unknown token for as long as the request
//! lasts.
//!
//! Without a user no token is fetched. A user's own client authenticates by itself: here it is only
//! told to fetch another token.

pub(crate) mod pacing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::GetOptions;
use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::etcd::failure::{Class, Failure, Fault};
use crate::etcd::link::MemberLink;
use crate::etcd::token::pacing::{CheckOutcome, TokenPacing};
use crate::etcd::{Client, Core, EtcdOptions, RequestLimits, Source, bounded};

/// The token in use, as a header value. Cheap to clone; clones see the same token.
#[derive(Clone, Default)]
pub(crate) struct Token(Arc<RwLock<Option<HeaderValue>>>);

impl Token {
    /// The header value; `None` where no token is needed.
    pub(super) fn value(&self) -> Option<HeaderValue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the token for all later requests.
    fn set(&self, value: Option<HeaderValue>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// The tokens of one [`Etcd`](crate::etcd::Etcd), one after the other.
pub(super) struct Tokens {
    /// The user's name and password.
    user: Option<(String, String)>,
    /// Whether no user was given, so that no token is ever fetched. False for a user's own client,
    /// which may have a user.
    needs_no_token: bool,
    /// The token in use.
    pub(super) token: Token,
    /// The state of the check.
    state: Mutex<State>,
    /// Counts the checks that have ended, for those who wait for one.
    ended: watch::Sender<u64>,
}

/// When a check is made, and how the last one ended.
struct State {
    /// Decides when a check is made.
    machine: TokenPacing,
    /// The start of the time that the machine is given.
    epoch: Instant,
    /// Whether a check runs.
    is_fetching: bool,
    /// Why the last check failed.
    failure: Option<Failure>,
}

impl Tokens {
    /// No check is made before a request needs a token.
    pub(super) fn new(source: &Source) -> Self {
        let none = |options: &EtcdOptions| options.user.is_none();
        let (user, needs_no_token, present) = match source {
            Source::Options(options) => (options.user.clone(), none(options), none(options)),
            // The client has a token already, if it has a user.
            Source::Client(_) => (None, false, true),
        };
        let machine = TokenPacing::new(present, fastrand::u64(..));
        let state = State { machine, epoch: Instant::now(), is_fetching: false, failure: None };
        Self { user, needs_no_token, token: Token::default(), state: Mutex::new(state), ended: watch::Sender::new(0) }
    }

    /// Nothing panics while the lock is held, so that a poisoned lock still guards a valid state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a user was given.
    pub(super) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether authentication was off at the last check, so that requests carry no token although a
    /// user was given.
    pub(super) fn is_anonymous(&self) -> bool {
        self.state().machine.is_anonymous()
    }

    /// The number that the next token will have.
    fn next(&self) -> u64 {
        self.state().machine.next()
    }

    /// Whether the failure says that this token is not valid. Then another one is fetched.
    fn refused_as_expired(&self, number: u64, failure: &Failure) -> bool {
        failure.class == Class::Token && self.refused(number, failure)
    }

    /// Takes a failure of a request with this token. Whether another token may help, so that the
    /// request is repeated. Always `false` where no user was given.
    pub(super) fn refused(&self, number: u64, failure: &Failure) -> bool {
        if self.needs_no_token {
            return false;
        }
        let mut state = self.state();
        let now = state.epoch.elapsed();
        match failure.class {
            Class::Token => state.machine.on_refused(number),
            Class::Denied => state.machine.on_denied(now, number),
            _ => false,
        }
    }
}

impl Core {
    /// The number of the token in use, once there is one. Starts a check where none runs.
    ///
    /// # Errors
    /// How the check that was running, or the next one, failed.
    ///
    /// # Cancel safety
    /// The check is a task of its own. Dropping the future ends nothing.
    pub(super) async fn token(self: &Arc<Self>) -> Result<u64, Failure> {
        let tokens = &self.tokens;
        let (before, mut ended) = {
            let mut state = tokens.state();
            if let Some(number) = state.machine.current() {
                return Ok(number);
            }
            let begins = !std::mem::replace(&mut state.is_fetching, true);
            if begins {
                let failure = Failure::new(Class::Transient, "the runtime of the password check has ended");
                state.failure = Some(failure);
            }
            drop(state);
            let ended = tokens.ended.subscribe();
            let before = *ended.borrow();
            if begins {
                // Made before the task. A runtime that ends drops its tasks unpolled, and the
                // guard's `Drop` takes the lock.
                spawn_fetch(FetchGuard(self.clone()));
            }
            (before, ended)
        };
        // Never an error: `self` owns the sender.
        let _ = ended.wait_for(|checks| *checks != before).await;
        let state = tokens.state();
        match (state.machine.current(), &state.failure) {
            (Some(number), _) => Ok(number),
            (None, Some(failure)) => Err(failure.clone()),
            // The new token was refused between the check and this wake-up.
            (None, None) => Err(Failure::new(Class::Token, "the new token was refused")),
        }
    }

    /// Checks the password once, at the member in use, or at another one where the first is late.
    /// Gives the token; `None` for a user's own client, which keeps it for itself.
    ///
    /// # Errors
    /// How the check failed. A token that is no valid header value is a permanent failure.
    async fn authenticate(self: &Arc<Self>) -> Result<Option<HeaderValue>, Failure> {
        let link = self.link().await?;
        let (Source::Options(_), Some((name, password))) = (&self.links.source, &self.tokens.user) else {
            let refreshed = bounded(self.request_timeout(), async {
                link.client().refresh_token().await.map(|()| None).map_err(Failure::from)
            });
            return refreshed.await.map_err(|failure| failure.while_doing("authenticating"));
        };
        let end = Instant::now() + self.request_timeout();
        // A second check only where nothing is heard: each one costs etcd a bcrypt.
        let limits =
            RequestLimits { late_after: self.request_timeout() / 2, total: self.request_timeout(), may_repeat: false };
        let check = |client: Client| {
            let (name, password) = (name.clone(), password.clone());
            async move { client.auth_client().authenticate(name, password).await }
        };
        let checked = self.attempt(link.clone(), None, end, limits, &check);
        let (response, _) = checked.await.map_err(|(failure, _)| failure.while_doing("authenticating"))?;
        let token = HeaderValue::from_str(response.token());
        let token = token.map_err(|_| Failure::new(Class::Permanent, "the token is not a valid header value"))?;
        link.confirm_token(self.tokens.next());
        Ok(Some(token))
    }

    /// Whether requests over this link may carry this token.
    ///
    /// A token that was fetched over another connection is first sent with a cheap serializable
    /// read. A member that was wiped or restored waits for the log entry that the token names, for
    /// as long as a request lasts. Where that read hangs while the connection is alive, the token
    /// is dropped and the result is `false`: another token is fetched.
    pub(super) async fn check_token(self: &Arc<Self>, link: &MemberLink, number: u64) -> bool {
        let is_known = || self.tokens.needs_no_token || link.service().is_none() || link.has_confirmed(number);
        if is_known() {
            return true;
        }
        let _one_at_a_time = link.token_check().lock().await;
        if is_known() {
            return true;
        }
        let (asked, mut kv) = (Instant::now(), link.client().kv_client());
        // The answer to this PING tells a dead connection from a token that the member waits for.
        link.ping();
        let options = GetOptions::new().with_serializable().with_count_only();
        match timeout(TOKEN_CHECK_TIMEOUT + link.grace(), kv.get([0_u8], Some(options))).await {
            Ok(Err(error)) => {
                if self.tokens.refused_as_expired(number, &Failure::from(error)) {
                    return false;
                }
                link.confirm_token(number);
            }
            Err(_) if !link.is_silent_since(asked) => {
                self.tokens.state().machine.on_refused(number);
                return false;
            }
            Ok(Ok(_)) => link.confirm_token(number),
            Err(_) => {}
        }
        true
    }
}

/// How long that read may take, beside the link's usual latency.
const TOKEN_CHECK_TIMEOUT: Duration = Duration::from_millis(300);

/// Not async, for the compiler: a check makes requests, and requests wait for a check. An async fn
/// would have an infinitely large future.
fn spawn_fetch(ended: FetchGuard) {
    tokio::spawn(fetch(ended));
}

/// One check, as soon as the pace allows it. A member that cannot serve is left, and the check goes
/// to the next one.
async fn fetch(ended: FetchGuard) {
    let core = &ended.0;
    let at = {
        let state = core.tokens.state();
        state.epoch + state.machine.next_check()
    };
    sleep_until(at).await;
    let mut tries = core.tries();
    let result = loop {
        match core.authenticate().await {
            Err(failure) if matches!(failure.fault, Fault::Member | Fault::Connection) && tries > 1 => tries -= 1,
            result => break result,
        }
    };
    let mut state = core.tokens.state();
    let now = state.epoch.elapsed();
    let (outcome, failure) = match result {
        Ok(token) => {
            core.tokens.token.set(token);
            (CheckOutcome::Fetched, None)
        }
        Err(failure) if failure.class == Class::AuthenticationIsOff => {
            core.tokens.token.set(None);
            (CheckOutcome::NotNeeded, None)
        }
        Err(failure) if failure.is_worth_a_retry() => (CheckOutcome::Unanswered, Some(failure)),
        Err(failure) => (CheckOutcome::Refused, Some(failure)),
    };
    state.machine.on_checked(now, outcome);
    state.failure = failure;
}

/// Wakes those who wait however a check ends, also with its runtime.
struct FetchGuard(Arc<Core>);

impl Drop for FetchGuard {
    fn drop(&mut self) {
        self.0.tokens.state().is_fetching = false;
        self.0.tokens.ended.send_modify(|ended| *ended += 1);
    }
}
