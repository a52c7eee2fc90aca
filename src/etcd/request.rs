//! Unary requests: which are late, tried again, and sent to another member as well.

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

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    /// When another member is asked beside the first, although the first one's connection is heard.
    pub(crate) late_after: Duration,
    /// When nobody is asked any more, connecting included.
    pub(crate) total: Duration,
    /// Where there is no other member, it is sent to the same one again: what is asked of etcd around an election may be lost.
    pub(crate) may_repeat: bool,
}

impl RequestLimits {
    /// How long after it was made a request over this link is late: always in time to ask another member.
    pub(super) fn late_by(self, link: &MemberLink) -> Duration {
        self.late_after.saturating_add(link.grace()).min(self.total / 3 * 2)
    }
}

/// One try of a request, at one member.
struct Attempt<'a, T> {
    link: MemberLink,
    token: u64,
    asked: Instant,
    answer: Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>,
}

impl Core {
    /// One unary call: tried again, elsewhere if need be, while another try may fare better, and once more with a new token
    /// where that may help. One that is late is made at one other member beside it. Every operation given here may be
    /// repeated. Tells as well whether another try than the one that was answered may have been done, or may still be; a failure
    /// tells it of all tries.
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
            // A search for a connection, or a check of the password, has tried what there is.
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

    /// One try, and another beside it where it is late: at another member, or where there is none perhaps once more at this one. A failure comes with the token that was used.
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
            // Its answer tells a connection that is dead from a member that is slow.
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
                // What is no member's fault is the same everywhere.
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

    fn failed<T>(&self, attempt: &Attempt<'_, T>, failure: Failure) -> (Failure, u64) {
        let failure = self.on_failure(&attempt.link, attempt.asked, failure);
        (failure.at(attempt.link.name()), attempt.token)
    }
}

/// The answer to a try; never, where there is none.
async fn answer_of<T>(attempt: Option<&mut Attempt<'_, T>>) -> (Result<T, Failure>, MemberLink) {
    match attempt {
        Some(attempt) => ((&mut attempt.answer).await, attempt.link.clone()),
        None => std::future::pending().await,
    }
}

/// Whether a try may have been done, or may still be: it has no answer, or one that does not say.
fn is_open<T>(attempt: Option<&Attempt<'_, T>>, failed: Option<&(Failure, u64)>) -> bool {
    attempt.is_some() && failed.is_none_or(|(failure, _)| !failure.is_decided())
}

/// When a try is late: soon where nothing was heard over its connection since it was made, else later.
async fn late_at(link: &MemberLink, asked: Instant, unheard: Instant, late: Instant) {
    sleep_until(unheard.min(late)).await;
    if !link.is_silent_since(asked) {
        sleep_until(late).await;
    }
}
