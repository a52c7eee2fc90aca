//! Unary requests: time limits, retries, and a second try at another member.
//!
//! ```text
//! 0 ms      try 1 is sent to the member in use
//! 300 ms    nothing heard over its connection since then: PING, try 2 to another member
//! late      something heard, but no answer: the same; without another member perhaps try 2 to the same one
//! total     the request fails
//! ```
//!
//! The first answer of any try counts, and the other one is dropped. So every operation given here
//! must be idempotent. `late` depends on the request (half of the request timeout for reads) and on
//! the latency of the link: on a far network 300 ms are longer.
//!
//! When both tries have failed, the whole is repeated while another try may succeed, up to
//! [`Core::tries`] times and until the time limit ends. A refused token is replaced once.
//!
//! A failure of a try changes what later requests use: see [`Core::on_failure`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::etcd::Core;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::MemberLink;
use crate::etcd::link::links::HEDGE_DELAY;

/// How long a request may take. The registrar derives them from the lease's time to live,
/// everything else from the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    /// When a second try is made although the connection of the first one is alive.
    pub(crate) late_after: Duration,
    /// When the request fails, connecting included.
    pub(crate) total: Duration,
    /// Whether the second try may go to the same member where there is no other one. What a member
    /// is asked around an election may be lost, so that renewals and puts set this.
    pub(crate) may_repeat: bool,
}

impl RequestLimits {
    /// How long after it was sent a request over this link is late: `late_after` and the link's
    /// usual latency, and never more than two thirds of the total, which leaves time for a second
    /// try.
    pub(super) fn late_by(self, link: &MemberLink) -> Duration {
        self.late_after.saturating_add(link.grace()).min(self.total / 3 * 2)
    }
}

/// One try of a request at one member. Dropping it resets its HTTP/2 stream.
struct Attempt<'a, T> {
    link: MemberLink,
    /// The number of the token that it carries; 0 for a password check, which carries none.
    token: u64,
    /// When it was sent. What is heard over the link later proves the connection.
    asked: Instant,
    /// The answer, once it arrives.
    answer: Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>,
}

impl Core {
    /// Makes one unary request, with retries, and once more with a new token where the token was
    /// refused.
    ///
    /// Gives the answer, and whether any try but the answered one may have taken effect or may
    /// still do so. A failure says that of all tries ([`Failure::in_doubt`]).
    ///
    /// # Errors
    /// The failure of the last try, or of the search for a member.
    pub(super) async fn call_counted<T, F, Fut>(
        self: &Arc<Self>,
        limits: RequestLimits,
        doing: &str,
        operation: F,
    ) -> Result<(T, bool), Failure>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let end = Instant::now() + limits.total;
        let (mut tries, mut renewed, mut in_doubt) = (0, 0, false);
        loop {
            tries += 1;
            // No retry where this fails: a search for a member, or a password check, has tried all
            // there is.
            let begun = timeout_at(end, self.link_and_token());
            let failure = match begun.await {
                Ok(Ok((link, token))) => match self.attempt(link, Some(token), end, limits, &operation).await {
                    Ok((value, count)) => return Ok((value, in_doubt || count > 1)),
                    Err((failure, token)) => {
                        in_doubt |= failure.in_doubt;
                        let failure = failure.while_doing(doing).with_doubt(in_doubt);
                        if renewed == 0 && self.tokens.refused(token, &failure) {
                            renewed = 1;
                            continue;
                        }
                        failure
                    }
                },
                Ok(Err(failure)) => return Err(failure.while_doing(doing).with_doubt(in_doubt)),
                Err(_) => {
                    let failure = Failure::new(Class::TimedOut, format!("no connection within {:?}", limits.total));
                    return Err(failure.at(&self.member_in_use()).while_doing(doing).with_doubt(in_doubt));
                }
            };
            if !failure.is_worth_a_retry() || tries >= self.tries() + renewed || Instant::now() >= end {
                return Err(failure);
            }
        }
    }

    /// Makes one try, and a second one beside it where the first is late: at another member, or at
    /// the same one where `may_repeat` allows it. Gives the answer and the number of tries made.
    /// Without `token` the requests carry none.
    ///
    /// # Errors
    /// The failure and the token that was used: of the first try, or of the one whose failure holds
    /// at every member.
    pub(super) async fn attempt<T, F, Fut>(
        self: &Arc<Self>,
        link: MemberLink,
        token: Option<u64>,
        end: Instant,
        limits: RequestLimits,
        operation: &F,
    ) -> Result<(T, usize), (Failure, u64)>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let ask = |link: MemberLink, token: u64| {
            let operation = operation(link.client());
            let answer = Box::pin(async move { operation.await.map_err(Failure::from) });
            Attempt { link, token, asked: Instant::now(), answer }
        };
        let to = link.clone();
        let mut first = ask(link, token.unwrap_or_default());
        let (asked, late) = (first.asked, limits.late_by(&to));
        let beside = async {
            let unheard = asked + (HEDGE_DELAY + to.grace()).min(late);
            late_at(&to, asked, unheard, asked + late).await;
            // The answer to this PING tells a dead connection from a slow member.
            to.ping();
            if let Some(link) = self.link_elsewhere(&to).await {
                let token = match token {
                    Some(_) => self.token_for(&link).await.ok()?,
                    None => 0,
                };
                return Some((link, token));
            }
            sleep_until(asked + late).await;
            token.filter(|_| limits.may_repeat).map(|token| (to.clone(), token))
        };
        tokio::pin!(beside);
        let (mut second, mut is_alone) = (None::<Attempt<'_, T>>, true);
        let (mut first_failed, mut second_failed) = (None, None);
        loop {
            tokio::select! {
                biased;
                answer = &mut first.answer, if first_failed.is_none() => match answer {
                    Ok(value) => {
                        to.record_latency(asked.elapsed());
                        return Ok((value, 1 + usize::from(second.is_some())));
                    }
                    Err(failure) => first_failed = Some(self.failed(&first, failure)),
                },
                found = &mut beside, if is_alone => {
                    (is_alone, second) = (false, found.map(|(link, token)| ask(link, token)));
                }
                (answer, at) = answer_of(second.as_mut()), if second_failed.is_none() => match answer {
                    Ok(value) => {
                        if to.is_silent_since(asked) {
                            self.links.switch_to(&at);
                        }
                        return Ok((value, 2));
                    }
                    Err(failure) => second_failed = second.as_ref().map(|second| self.failed(second, failure)),
                },
                () = sleep_until(end) => {
                    let late = |attempt: &Attempt<'_, T>| self.failed(attempt, Failure::timed_out(limits.total));
                    if second_failed.is_none() {
                        second.as_ref().map(late);
                    }
                    let (failure, token) = first_failed.clone().unwrap_or_else(|| late(&first));
                    let in_doubt = is_open(Some(&first), first_failed.as_ref()) || is_open(second.as_ref(), second_failed.as_ref());
                    return Err((failure.with_doubt(in_doubt), token));
                }
            }
            let in_doubt =
                is_open(Some(&first), first_failed.as_ref()) || is_open(second.as_ref(), second_failed.as_ref());
            match (&first_failed, &second_failed) {
                // A failure that is no member's fault would be the same at every member.
                (Some((failure, token)), _) | (_, Some((failure, token))) if !failure.is_worth_a_retry() => {
                    return Err((failure.clone().with_doubt(in_doubt), *token));
                }
                (Some((failure, token)), other) if other.is_some() || second.is_none() => {
                    return Err((failure.clone().with_doubt(in_doubt), *token));
                }
                _ => {}
            }
        }
    }

    /// What a failed try changes for its link, and the failure with its member and token. Called
    /// once for each try that fails, also for one that the time limit ends.
    fn failed<T>(&self, attempt: &Attempt<'_, T>, failure: Failure) -> (Failure, u64) {
        let failure = self.on_failure(&attempt.link, attempt.asked, failure);
        (failure.at(attempt.link.name()), attempt.token)
    }
}

/// The answer to a try. Never completes where there is no try, so that `select!` waits for the
/// others.
async fn answer_of<T>(attempt: Option<&mut Attempt<'_, T>>) -> (Result<T, Failure>, MemberLink) {
    match attempt {
        Some(attempt) => ((&mut attempt.answer).await, attempt.link.clone()),
        None => std::future::pending().await,
    }
}

/// Whether a try may have taken effect, or may still do so: it has no answer yet, or its failure
/// does not decide that. Decides [`Failure::in_doubt`].
fn is_open<T>(attempt: Option<&Attempt<'_, T>>, failed: Option<&(Failure, u64)>) -> bool {
    attempt.is_some() && failed.is_none_or(|(failure, _)| !failure.is_decided())
}

/// Waits until a try is late: until `unheard` where nothing was heard over its link since it was
/// sent, otherwise until `late`. A link that is heard is alive, and its member is only slow.
async fn late_at(link: &MemberLink, asked: Instant, unheard: Instant, late: Instant) {
    sleep_until(unheard.min(late)).await;
    if !link.is_silent_since(asked) {
        sleep_until(late).await;
    }
}
