//! One call: a place, an attempt, and another server where that is right.

mod attempt;
pub(super) mod deadline;
pub(super) mod deadline_timer;
mod ending;
pub(super) mod header_limits;
pub(super) mod pick;
pub(super) mod replay;
pub(super) mod reporter;
pub(super) mod response_body;
pub(super) mod retry;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::balance::call::deadline::Deadline;
use crate::balance::call::header_limits::RequestedLimits;
use crate::balance::call::pick::{PickRequest, PickResult, PickedServer, WaitLimits};
use crate::balance::call::replay::Replay;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::retry::Repeat;
use crate::balance::channel::Inner;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::subchannel::Subchannel;
use crate::balance::{Shared, WaitForReady, runtime, status};
use crate::connection::Failure;

type Body = Replay<tonic::body::Body>;
type Answered = Result<Response<ResponseBody>, Status>;

/// Holds the channel until an answer has begun: a call outlives the clone that it was made with.
pub(super) async fn call(channel: Arc<Shared>, request: Request<tonic::body::Body>) -> Answered {
    let inner = channel.inner.clone();
    let mut caller = CallState::new(inner, request);
    let answered = caller.run().await;
    answered.map_err(|status| caller.inner.settings.tell(status))
}

enum Outcome {
    Over(Answered),
    /// On another server, after a wait.
    Again(Body, Duration),
}

/// What an answer that has begun comes to.
enum Begun<'a> {
    Known(Outcome),
    /// Boxed, so that other calls do not carry the room for it.
    Later(Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>),
}

struct CallState {
    inner: Arc<Inner>,
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    /// For pickers.
    extensions: Extensions,
    /// How large they are at most, as HTTP/2 counts it.
    size: usize,
    /// Between attempts. It stands here, so that no future has to carry it along.
    body: Option<Body>,
    /// By a generated client.
    generated: bool,
    patience: WaitLimits,
    repeat: Repeat,
    /// Attempts that a server may have processed.
    attempts: u32,
    /// A connection has ended, it may be over this call: a second one is risked, and no more.
    suspected: bool,
    /// Servers that have failed this call since all of them were tried.
    tried: Vec<Arc<Subchannel>>,
    /// Between rounds over servers none of which took the call.
    rounds: Option<Box<Backoff>>,
    /// How the last server that did not take it said so.
    refused: Option<Box<(Failure, Arc<ReadySubchannel>)>>,
    /// What the last attempt that a server may have processed came to. Boxed, because few calls have one.
    last: Option<Box<Answered>>,
}

impl CallState {
    fn new(inner: Arc<Inner>, request: Request<tonic::body::Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let began = Instant::now();
        let settings = &inner.settings;
        let generated = parts.extensions.get::<tonic::GrpcMethod<'static>>().is_some();
        // What a generated client adds is all that most requests have: nothing else is looked for then.
        let more = (parts.extensions.len() > usize::from(generated)).then_some(&parts.extensions);
        let RequestedLimits { mut size, timeout, agent } = RequestedLimits::by(&parts.headers);
        let deadline = Deadline::of(timeout, settings.timeouts.of(more, parts.uri.path()), began);
        let for_ready = more.and_then(|more| more.get::<WaitForReady>()).map_or(settings.wait_for_ready, |wait| wait.0);
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let agent = agent.map_or_else(|| settings.user_agent.clone(), |own| both(own, &settings.user_agent));
        size += header_limits::size_of(USER_AGENT.as_str(), &agent); // that of its own is counted twice
        parts.headers.insert(USER_AGENT, agent);
        Self {
            method: parts.method,
            repeat: settings.retry.of(path.path()),
            path,
            headers: parts.headers,
            extensions: parts.extensions,
            size,
            body: Some(Replay::new(body, settings.replay_limit)),
            generated,
            patience: WaitLimits { deadline, for_ready, began },
            attempts: 0,
            suspected: false,
            tried: Vec::new(),
            rounds: None,
            refused: None,
            last: None,
            inner,
        }
    }

    async fn run(&mut self) -> Answered {
        let began = self.inner.since_epoch(self.patience.began);
        // As long as it has waited for nothing, the clock needs no further look.
        let mut at_once = Some((self.patience.began, began));
        match self.inner.pauses.before(began) {
            None => self.inner.pauses.runs(began),
            Some(_) if self.inner.is_full() => {}
            Some(still) => {
                let servers = self.inner.subchannels.load().len();
                // Boxed, so that other calls do not carry the room for it.
                Box::pin(self.inner.pauses.catch_up(still, servers, self.inner.epoch)).await;
                at_once = None;
            }
        }
        if self.patience.deadline.is_some_and(|deadline| deadline.given.is_zero()) {
            return Err(self.too_late());
        }
        loop {
            let picked = match self.inner.pick(&self.pick_request(), false) {
                PickResult::Picked(picked) => picked,
                pick => {
                    at_once = None;
                    // Boxed, so that other calls do not carry the room for it.
                    match Box::pin(self.place(pick)).await {
                        Ok(placed) => placed,
                        Err(status) => return self.given_up(status),
                    }
                }
            };
            let (placed, sent) = at_once.take().unwrap_or_else(|| self.now());
            match self.attempt(picked, sent).await {
                Outcome::Over(answered) => return answered,
                Outcome::Again(rest, wait) => {
                    self.body = Some(rest);
                    if !wait.is_zero() {
                        runtime::timers()?;
                        // It was with a server: what it waits now is bounded by its deadline alone.
                        let patience = WaitLimits { for_ready: true, ..self.patience };
                        if let Err(status) = self.inner.pause(wait, patience).await {
                            return self.given_up(status);
                        }
                    }
                    // Neither is waiting for a server.
                    self.patience.began += placed.elapsed();
                }
            }
        }
    }

    /// The time, also since the channel's epoch.
    fn now(&self) -> (Instant, Duration) {
        let now = Instant::now();
        (now, self.inner.since_epoch(now))
    }

    fn pick_request(&self) -> PickRequest<'_> {
        PickRequest {
            path: self.path.path(),
            headers: &self.headers,
            extensions: &self.extensions,
            attempt: self.attempts + 1, // of those that may have been processed, of which there are few
            tried: &self.tried,
        }
    }

    /// A server that takes the call, where the first look has not found one.
    async fn place(&mut self, mut pick: PickResult) -> Result<PickedServer, Status> {
        loop {
            if !matches!(pick, PickResult::Picked(_)) {
                runtime::timers()?; // each way of waiting needs one
            }
            pick = match pick {
                PickResult::Picked(picked) => return Ok(picked),
                PickResult::Fail(status) => return Err(status),
                PickResult::Wait => self.inner.wait_for_picker(&self.pick_request(), self.patience).await?,
                PickResult::Full | PickResult::NoneReady => {
                    self.inner.wait(&self.pick_request(), self.patience).await?
                }
                PickResult::AllTried => {
                    self.tried.clear();
                    if let Some(rounds) = &mut self.rounds {
                        let wait = rounds.fail(self.patience.began.elapsed(), false);
                        let end = Instant::now() + wait; // some seconds at most
                        if self.inner.until(self.patience).is_some_and(|until| end >= until)
                            && let Some(refused) = self.refused.take()
                        {
                            let (failure, member) = *refused;
                            return Err(status::of_failure(failure, member.subchannel.address()));
                        }
                        self.inner.pause(wait, self.patience).await?;
                    }
                    self.inner.pick(&self.pick_request(), false)
                }
            };
        }
    }

    /// There is no further attempt. A call that a server had ends with what came of that: `status` says that none had it.
    fn given_up(&mut self, status: Status) -> Answered {
        self.last.take().map_or(Err(status), |last| *last)
    }

    /// The time is up, and no server has the call.
    fn too_late(&self) -> Status {
        let given = self.patience.deadline.map_or(0, |deadline| deadline.given.as_millis());
        let text = format!("not sent: the {given} ms of the call have passed");
        status::unplaced(Code::DeadlineExceeded, text.clone(), &text)
    }
}

fn both(own: &HeaderValue, ours: &HeaderValue) -> HeaderValue {
    let joined = [own.as_bytes(), b" ", ours.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| own.clone()) // two values and a space are one
}
