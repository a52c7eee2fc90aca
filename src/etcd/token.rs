//! The token: fetched by one task for all who need it, at a rate that etcd can bear, and carried over connections and
//! members.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::authentication::{Authentication, Outcome};
use super::failure::{Class, Failure, Fault};
use super::{Core, EtcdOptions, Source, bounded};

/// The token as requests carry it.
#[derive(Clone, Default)]
pub(super) struct Token(Arc<RwLock<Option<HeaderValue>>>);

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
    is_needless: bool,
    pub(super) token: Token,
    state: Mutex<State>,
    /// Counts the checks that have ended.
    ended: watch::Sender<u64>,
}

struct State {
    machine: Authentication,
    epoch: Instant,
    is_fetching: bool,
    /// How the last check failed.
    failure: Option<Failure>,
}

impl Tokens {
    pub(super) fn new(source: &Source) -> Self {
        let none = |options: &EtcdOptions| options.user_and_password().is_none();
        let (user, is_needless, present) = match source {
            Source::Options(options) => (options.user_and_password().cloned(), none(options), none(options)),
            // It has authenticated already, if it has a user.
            Source::Client(_) => (None, false, true),
        };
        let machine = Authentication::new(present, fastrand::u64(..));
        let state = State { machine, epoch: Instant::now(), is_fetching: false, failure: None };
        Self { user, is_needless, token: Token::default(), state: Mutex::new(state), ended: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Authentication was off when etcd was last asked for a token.
    pub(super) fn is_anonymous(&self) -> bool {
        self.state().machine.is_anonymous()
    }

    /// A token was refused: the one of that number. Whether another is worth a try.
    pub(super) fn refused(&self, number: u64, failure: &Failure) -> bool {
        if self.is_needless {
            return false;
        }
        let mut state = self.state();
        let now = state.epoch.elapsed();
        match failure.class {
            Class::Token => state.machine.refused(number),
            Class::Denied => state.machine.denied(now, number),
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
            if let Some(number) = state.machine.present() {
                return Ok(number);
            }
            if !std::mem::replace(&mut state.is_fetching, true) {
                tokio::spawn(fetch(self.clone()));
            }
            let ended = tokens.ended.subscribe();
            let before = *ended.borrow();
            (before, ended)
        };
        // The sender lives as long as this does.
        let _ = ended.wait_for(|checks| *checks != before).await;
        let state = tokens.state();
        match (state.machine.present(), &state.failure) {
            (Some(number), _) => Ok(number),
            (None, Some(failure)) => Err(failure.clone()),
            // It was refused again in between.
            (None, None) => Err(Failure::new(Class::Token, "the new token was refused")),
        }
    }

    async fn authenticate(self: &Arc<Self>) -> Result<Option<HeaderValue>, Failure> {
        let link = self.link().await?;
        let checked = async {
            match (&self.links.source, &self.tokens.user) {
                (Source::Options(_), Some((name, password))) => {
                    let mut client = link.client().auth_client();
                    let response = client.authenticate(name.clone(), password.clone()).await.map_err(Failure::from)?;
                    let token = HeaderValue::from_str(response.token());
                    token.map(Some).map_err(|_| Failure::new(Class::Permanent, "the token is no header value"))
                }
                _ => link.client().refresh_token().await.map(|()| None).map_err(Failure::from),
            }
        };
        let asked = Instant::now();
        match bounded(self.request_timeout(), checked).await {
            Ok(token) => Ok(token),
            Err(failure) => Err(self.blame(&link, asked, failure).at(link.name()).while_doing("authenticating")),
        }
    }
}

/// One check, as soon as it may be made.
async fn fetch(core: Arc<Core>) {
    let _ended = Ended(&core);
    // What holds if this task ends before it is done.
    core.tokens.state().failure = Some(Failure::new(Class::Transient, "the runtime of the password check has ended"));
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
            (Outcome::Fetched, None)
        }
        Err(failure) if failure.class == Class::AuthenticationIsOff => {
            core.tokens.token.set(None);
            (Outcome::NotNeeded, None)
        }
        Err(failure) if failure.is_worth_a_retry() => (Outcome::Unanswered, Some(failure)),
        Err(failure) => (Outcome::Refused, Some(failure)),
    };
    state.machine.checked(now, outcome);
    state.failure = failure;
}

/// However a check ends, also with its runtime: whoever waits for it goes on.
struct Ended<'a>(&'a Core);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.tokens.state().is_fetching = false;
        self.0.tokens.ended.send_modify(|ended| *ended += 1);
    }
}
