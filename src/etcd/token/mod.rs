//! The token: fetched by one task for all who need it, at a rate that etcd can bear, and carried over connections and
//! members.

pub(super) mod pacing;

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

/// The token as requests carry it.
#[derive(Clone, Default)]
pub(crate) struct Token(Arc<RwLock<Option<HeaderValue>>>);

impl Token {
    pub(super) fn value(&self) -> Option<HeaderValue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, value: Option<HeaderValue>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// The tokens of one resolver or registrar, one after the other.
pub(super) struct Tokens {
    user: Option<(String, String)>,
    /// No user was given.
    needs_no_token: bool,
    pub(super) token: Token,
    state: Mutex<State>,
    /// Counts the checks that have ended.
    ended: watch::Sender<u64>,
}

struct State {
    machine: TokenPacing,
    epoch: Instant,
    is_fetching: bool,
    /// How the last check failed.
    failure: Option<Failure>,
}

impl Tokens {
    pub(super) fn new(source: &Source) -> Self {
        let none = |options: &EtcdOptions| options.user_and_password().is_none();
        let (user, needs_no_token, present) = match source {
            Source::Options(options) => (options.user_and_password().cloned(), none(options), none(options)),
            // It has authenticated already, if it has a user.
            Source::Client(_) => (None, false, true),
        };
        let machine = TokenPacing::new(present, fastrand::u64(..));
        let state = State { machine, epoch: Instant::now(), is_fetching: false, failure: None };
        Self { user, needs_no_token, token: Token::default(), state: Mutex::new(state), ended: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a user was given.
    pub(super) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// TokenPacing was off when etcd was last asked for a token.
    pub(super) fn is_anonymous(&self) -> bool {
        self.state().machine.is_anonymous()
    }

    /// The number of the token that is being fetched.
    fn next(&self) -> u64 {
        self.state().machine.next()
    }

    /// Whether etcd says that the token of that number has ended.
    fn refused_as_expired(&self, number: u64, failure: &Failure) -> bool {
        failure.class == Class::Token && self.refused(number, failure)
    }

    /// A token was refused: the one of that number. Whether another is worth a try.
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
    /// The number of the token that requests carry, once there is one.
    ///
    /// # Errors
    /// How the check that was being made, or else the next one, has failed.
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
                // Made before the task, which a runtime that ends drops unpolled: its drop takes the lock.
                spawn_fetch(FetchGuard(self.clone()));
            }
            (before, ended)
        };
        // The sender lives as long as this does.
        let _ = ended.wait_for(|checks| *checks != before).await;
        let state = tokens.state();
        match (state.machine.current(), &state.failure) {
            (Some(number), _) => Ok(number),
            (None, Some(failure)) => Err(failure.clone()),
            // It was refused again in between.
            (None, None) => Err(Failure::new(Class::Token, "the new token was refused")),
        }
    }

    async fn authenticate(self: &Arc<Self>) -> Result<Option<HeaderValue>, Failure> {
        let link = self.link().await?;
        let (Source::Options(_), Some((name, password))) = (&self.links.source, &self.tokens.user) else {
            let refreshed = bounded(self.request_timeout(), async {
                link.client().refresh_token().await.map(|()| None).map_err(Failure::from)
            });
            return refreshed.await.map_err(|failure| failure.while_doing("authenticating"));
        };
        let end = Instant::now() + self.request_timeout();
        // Late only where nothing is heard: each check costs etcd a bcrypt.
        let limits =
            RequestLimits { late_after: self.request_timeout() / 2, total: self.request_timeout(), may_repeat: false };
        let check = |client: Client| {
            let (name, password) = (name.clone(), password.clone());
            async move { client.auth_client().authenticate(name, password).await }
        };
        let checked = self.attempt(link.clone(), None, end, limits, &check);
        let (response, _) = checked.await.map_err(|(failure, _)| failure.while_doing("authenticating"))?;
        let token = HeaderValue::from_str(response.token());
        let token = token.map_err(|_| Failure::new(Class::Permanent, "the token is no header value"))?;
        link.confirm_token(self.tokens.next());
        Ok(Some(token))
    }

    /// Whether requests over this link may carry that token. One that was fetched over another connection is tried first, by
    /// a read that costs etcd nothing: an etcd that was wiped or restored waits for the log entry that the token names, for as
    /// long as the request lasts. Then another token is fetched.
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
        // Its answer tells a connection that is dead from a token that is waited for.
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

/// How long the read that tries a token may take, beside what is usual.
const TOKEN_CHECK_TIMEOUT: Duration = Duration::from_millis(300);

/// Not async, for the sake of the compiler: a check makes requests, and requests wait for a check.
fn spawn_fetch(ended: FetchGuard) {
    tokio::spawn(fetch(ended));
}

/// One check, as soon as it may be made.
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

/// However a check ends, also with its runtime: whoever waits for it goes on.
struct FetchGuard(Arc<Core>);

impl Drop for FetchGuard {
    fn drop(&mut self) {
        self.0.tokens.state().is_fetching = false;
        self.0.tokens.ended.send_modify(|ended| *ended += 1);
    }
}
