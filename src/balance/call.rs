//! One call: a place, an attempt, and another server where that is right.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::answer::{Broken, ResponseBody};
use super::channel::Inner;
use super::clock::Clock;
use super::deadline::{Deadline, GRPC_TIMEOUT};
use super::headers::{Asked, Said};
use super::party::Party;
use super::pick::{Patience, Pick};
use super::policy::Call;
use super::ready::Member;
use super::request::{Replay, Why};
use super::retry::{PREVIOUS_ATTEMPTS, Pushback, Repeat};
use super::server::{Server, Verdict};
use super::{ServedBy, Shared, WaitForReady, foreign, headers, runtime, status};
use crate::backoff::Backoff;
use crate::connection::{Exchange, Failure, Incoming, Kind, Slot};

/// How much of an answer is held back at most until its status has come.
const HELD: usize = 4 << 20;

type Body = Replay<tonic::body::Body>;
type Answered = Result<Response<ResponseBody>, Status>;

/// Holds the channel until an answer has begun: a call outlives the clone that it was made with.
pub(super) async fn call(channel: Arc<Shared>, request: Request<tonic::body::Body>) -> Answered {
    let inner = channel.inner.clone();
    let mut caller = Caller::new(inner, request);
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

struct Caller {
    inner: Arc<Inner>,
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    /// How large they are at most, as HTTP/2 counts it.
    size: usize,
    /// Between attempts. It stands here, so that no future has to carry it along.
    body: Option<Body>,
    /// By a generated client.
    generated: bool,
    patience: Patience,
    repeat: Repeat,
    /// Attempts that a server may have processed.
    attempts: u32,
    /// A connection has ended, it may be over this call: a second one is risked, and no more.
    suspected: bool,
    /// Servers that have failed this call since all of them were tried.
    tried: Vec<Arc<Server>>,
    /// Between rounds over servers none of which took the call.
    rounds: Option<Box<Backoff>>,
    /// How the last server that did not take it said so.
    refused: Option<Box<(Failure, Arc<Member>)>>,
    /// What the last attempt that a server may have processed came to. Boxed, because few calls have one.
    last: Option<Box<Answered>>,
}

impl Caller {
    fn new(inner: Arc<Inner>, request: Request<tonic::body::Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let began = Instant::now();
        let settings = &inner.settings;
        let generated = parts.extensions.get::<tonic::GrpcMethod<'static>>().is_some();
        // What a generated client adds is all that most requests have: nothing else is looked for then.
        let more = (parts.extensions.len() > usize::from(generated)).then_some(&parts.extensions);
        let Asked { mut size, timeout, agent } = Asked::by(&parts.headers);
        let deadline = Deadline::of(timeout, settings.timeouts.of(more, parts.uri.path()), began);
        let for_ready = more.and_then(|more| more.get::<WaitForReady>()).map_or(settings.wait_for_ready, |wait| wait.0);
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let agent = agent.map_or_else(|| settings.user_agent.clone(), |own| both(own, &settings.user_agent));
        size += headers::size_of(USER_AGENT.as_str(), &agent); // that of its own is counted twice
        parts.headers.insert(USER_AGENT, agent);
        Self {
            method: parts.method,
            repeat: settings.retry.of(path.path()),
            path,
            headers: parts.headers,
            size,
            body: Some(Replay::new(body, settings.replay_limit)),
            generated,
            patience: Patience { deadline, for_ready, began },
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
                let servers = self.inner.lanes.load().len();
                // Boxed, so that other calls do not carry the room for it.
                Box::pin(self.inner.pauses.catch_up(still, servers, self.inner.epoch)).await;
                at_once = None;
            }
        }
        if self.patience.deadline.is_some_and(|deadline| deadline.given.is_zero()) {
            return Err(self.too_late());
        }
        loop {
            let (member, slot) = match self.look() {
                Pick::Picked(member, slot) => (member, slot),
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
            match self.attempt(member, slot, sent).await {
                Outcome::Over(answered) => return answered,
                Outcome::Again(rest, wait) => {
                    self.body = Some(rest);
                    if !wait.is_zero() {
                        drop(runtime::timer(Instant::now())?);
                        // It was with a server: what it waits now is bounded by its deadline alone.
                        let patience = Patience { for_ready: true, ..self.patience };
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

    fn look(&self) -> Pick {
        self.inner.pick(&Call { path: self.path.path(), headers: &self.headers }, &self.tried, false)
    }

    /// A server that takes the call, where the first look has not found one.
    async fn place(&mut self, mut pick: Pick) -> Result<(Arc<Member>, Slot), Status> {
        let call = Call { path: self.path.path(), headers: &self.headers };
        loop {
            if !matches!(pick, Pick::Picked(..)) {
                drop(runtime::timer(Instant::now())?); // each way of waiting needs one
            }
            pick = match pick {
                Pick::Picked(member, slot) => return Ok((member, slot)),
                Pick::Full | Pick::NoneReady => self.inner.wait(&call, &self.tried, self.patience).await?,
                Pick::AllTried => {
                    self.tried.clear();
                    if let Some(rounds) = &mut self.rounds {
                        let wait = rounds.fail(self.patience.began.elapsed(), false);
                        let end = Instant::now() + wait; // some seconds at most
                        if self.inner.until(self.patience).is_some_and(|until| end >= until)
                            && let Some(refused) = self.refused.take()
                        {
                            let (failure, member) = *refused;
                            return Err(status::of_failure(failure, member.server.address()));
                        }
                        self.inner.pause(wait, self.patience).await?;
                    }
                    self.inner.pick(&call, &self.tried, false)
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

    async fn attempt(&mut self, member: Arc<Member>, slot: Slot, sent: Duration) -> Outcome {
        let Some(head) = self.head(&member) else {
            let status = self.too_late();
            return Outcome::Over(self.given_up(status));
        };
        if let Some(status) =
            headers::refuse(&head, self.size, member.connection.request_limit(), member.server.address())
        {
            return Outcome::Over(self.given_up(status));
        }
        // Each attempt but the last gives it back.
        let Some(body) = self.body.take() else {
            return Outcome::Over(Err(Status::internal("the request is gone")));
        };
        let mut exchange = match member.connection.exchange(slot, head, body) {
            Ok(exchange) => exchange,
            Err((failure, body)) if failure.kind == Kind::NotSent => {
                return self.never_processed(member, failure, body);
            }
            Err((failure, _)) => {
                let status = status::of_failure(failure, member.server.address());
                return Outcome::Over(self.given_up(status));
            }
        };
        let mut party = Party::new(member, self.inner.clone(), sent);
        let mut clock = Clock::new(self.patience.deadline);
        let head = std::future::poll_fn(|cx| match exchange.poll_head(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending if clock.poll_over(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match head.await {
            Some(Ok(response)) => match self.answered(response, exchange, party, clock) {
                Begun::Known(outcome) => outcome,
                Begun::Later(outcome) => outcome.await,
            },
            Some(Err(failure)) => self.failed(failure, exchange.into_body(), &mut party, &clock),
            None => {
                party.judge(Verdict::Failure);
                Outcome::Over(Err(clock.exceeded(party.member.server.address())))
            }
        }
    }

    /// The request's head for this server, with the time that remains; none where none does.
    fn head(&self, member: &Member) -> Option<Request<()>> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(member.scheme.clone());
        uri.authority = Some(member.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut head = Request::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.method_mut() = self.method.clone();
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default(); // all three parts are there
        *head.headers_mut() = self.headers.clone();
        if let Some(deadline) = &self.patience.deadline {
            head.headers_mut().insert(GRPC_TIMEOUT, deadline.header()?);
        }
        if self.attempts > 0 {
            head.headers_mut().insert(PREVIOUS_ATTEMPTS, self.attempts.into());
        }
        Some(head)
    }

    /// An answer has begun.
    fn answered(
        &mut self,
        response: Response<Incoming>,
        exchange: Exchange<Body>,
        mut party: Party,
        clock: Clock,
    ) -> Begun<'_> {
        let (mut head, stream) = response.into_parts();
        let member = party.member.clone();
        let address = member.server.address();
        head.extensions.insert(ServedBy(member.server.clone()));
        let headers = Said::by(&head.headers);
        if let Some(status) = headers.head_beyond(exchange.answer_limit(), address) {
            party.head(false);
            party.judge(headers.verdict());
            return Begun::Known(Outcome::Over(Err(status)));
        }
        if headers.has_details && headers.code.is_some() {
            status::check_details(&mut head.headers);
        }
        let said = headers.code.filter(|code| *code != Code::Ok || stream.is_end_stream());
        let is_grpc = headers.is_grpc || headers.code.is_some();
        let begun = said.is_none() && head.status == StatusCode::OK && is_grpc;
        party.head(begun || said == Some(Code::Ok));
        if begun {
            let (answer, body) = exchange.answer(stream, Replay::commit);
            let response = Response::from_parts(head, ResponseBody::new(answer, party, clock));
            return match self.repeat {
                // Not while the request is still being sent: the caller may want the answer to go on with it.
                Repeat::Whole if body.is_some() => Begun::Later(Box::pin(self.held(response, body, member))),
                Repeat::Whole | Repeat::Never | Repeat::Begun => Begun::Known(Outcome::Over(Ok(response))),
            };
        }
        let code = said.unwrap_or_else(|| foreign::code_of(head.status));
        if code == Code::Cancelled && clock.has_passed() {
            party.judge(Verdict::Failure);
            return Begun::Known(Outcome::Over(Err(clock.exceeded(address))));
        }
        party.judge(Verdict::of(code));
        let (body, slot) = exchange.into_parts();
        let again = self.repeated(code, Some(body), &member, false, Pushback::of(&head.headers));
        if said.is_none() {
            if let Some(again) = again {
                let page = Err(foreign::unread(&head, address));
                return Begun::Known(self.keep(again, page));
            }
            let deadline = self.patience.deadline;
            return Begun::Later(Box::pin(async move {
                Outcome::Over(Err(foreign::status(head, stream, slot, deadline, member.server.address()).await))
            }));
        }
        let answered = if code != Code::Ok && self.generated {
            Err(status::sent(&head.headers, address))
        } else {
            if code != Code::Ok && self.inner.settings.addresses_in_statuses {
                status::name(&mut head.headers, address);
            }
            Ok(Response::from_parts(head, ResponseBody::empty()))
        };
        Begun::Known(match again {
            Some(again) => self.keep(again, answered),
            None => Outcome::Over(answered),
        })
    }

    /// A server had the call, and another attempt follows: what the call ends with if that finds no server.
    fn keep(&mut self, again: Outcome, answered: Answered) -> Outcome {
        self.last = Some(Box::new(answered));
        again
    }

    /// The answer of a method that may be repeated until all of it is there.
    async fn held(&mut self, mut response: Response<ResponseBody>, body: Option<Body>, member: Arc<Member>) -> Outcome {
        let again = match response.body_mut().hold(HELD).await {
            Ok(trailers) => {
                let pushback = trailers.map_or(Pushback::None, Pushback::of);
                let code = trailers.and_then(status::code_in).unwrap_or(Code::Ok);
                self.repeated(code, body, &member, false, pushback)
            }
            Err(Broken::Late(status) | Broken::TooLarge(status)) => return Outcome::Over(Err(status)),
            Err(Broken::Failed(failure)) => return self.unanswered(failure, body, &member),
        };
        match again {
            Some(again) => self.keep(again, Ok(response)),
            None => Outcome::Over(Ok(response)),
        }
    }

    /// The exchange failed before an answer began.
    fn failed(&mut self, failure: Failure, mut body: Body, party: &mut Party, clock: &Clock) -> Outcome {
        let member = party.member.clone();
        let address = member.server.address();
        match failure.kind {
            Kind::NotSent | Kind::Refused if body.rewind(Why::NeverProcessed).is_ok() => {
                Self::not_taken(party);
                return self.never_processed(member, failure, body);
            }
            Kind::Suspected(_) if !self.suspected && body.rewind(Why::NeverProcessed).is_ok() => {
                self.suspected = true;
                Self::not_taken(party);
                return self.never_processed(member, failure, body);
            }
            Kind::Body | Kind::Panicked | Kind::Unsendable => {
                party.end();
                return Outcome::Over(Err(status::of_failure(failure, address)));
            }
            Kind::NotSent
            | Kind::Refused
            | Kind::Suspected(_)
            | Kind::Reset(_)
            | Kind::Lost
            | Kind::Violation(_)
            | Kind::TooLarge
            | Kind::Overrun => {}
        }
        let code = status::code_of(&failure);
        if code == Code::Cancelled && clock.has_passed() {
            party.judge(Verdict::Failure);
            return Outcome::Over(Err(clock.exceeded(address)));
        }
        party.judge(Verdict::of(code));
        self.unanswered(failure, Some(body), &member)
    }

    fn unanswered(&mut self, failure: Failure, body: Option<Body>, member: &Arc<Member>) -> Outcome {
        let lost = matches!(failure.kind, Kind::Lost | Kind::Overrun | Kind::Violation(_));
        let code = status::code_of(&failure);
        let again = match failure.kind {
            Kind::TooLarge => None,
            // It may be this call, or one that shares connections with it, that no connection survives.
            Kind::Suspected(_) | Kind::Overrun if std::mem::replace(&mut self.suspected, true) => None,
            _ => self.repeated(code, body, member, lost, Pushback::None),
        };
        let unprocessed = matches!(failure.kind, Kind::NotSent | Kind::Refused | Kind::Suspected(_));
        let status = status::of_failure(failure, member.server.address());
        match again {
            // An earlier attempt may have been processed, whatever became of this one.
            Some(again) if unprocessed && self.last.is_some() => again,
            Some(again) => self.keep(again, Err(status)),
            None if unprocessed => Outcome::Over(self.given_up(status)),
            None => Outcome::Over(Err(status)),
        }
    }

    /// A server that refuses must not look idle; one whose connection is over is picked no more.
    fn not_taken(party: &mut Party) {
        if party.member.connection.is_over() {
            party.end();
        } else {
            party.refused();
        }
    }

    /// Nobody has seen the call: another server, always (gRPC's transparent retry).
    fn never_processed(&mut self, member: Arc<Member>, failure: Failure, body: Body) -> Outcome {
        tracing::debug!(server = %member.server.address(), %failure, "never processed: another server");
        // A connection that is over is picked no more; the server's next one is as good as any.
        if !member.connection.is_over() {
            self.tried.push(member.server.clone());
        }
        self.rounds.get_or_insert_with(|| Box::new(Backoff::new(fastrand::u64(..))));
        self.refused = Some(Box::new((failure, member)));
        Outcome::Again(body, Duration::ZERO)
    }

    /// Another attempt of a call that may have been processed, where that is declared harmless.
    fn repeated(
        &mut self,
        code: Code,
        body: Option<Body>,
        member: &Arc<Member>,
        lost: bool,
        pushback: Pushback,
    ) -> Option<Outcome> {
        if code == Code::Ok {
            return None;
        }
        let pushback = if self.patience.deadline.is_none() { pushback.undated() } else { pushback };
        if pushback == Pushback::Never {
            self.inner.budget.failed();
            return None;
        }
        let policy = &self.inner.settings.retry;
        if self.repeat == Repeat::Never || !policy.has_code(code) {
            return None;
        }
        // All that one lost connection takes with it is one failure to the budget.
        if !lost || !member.loss_paid.swap(true, Ordering::Relaxed) {
            self.inner.budget.failed();
        }
        self.attempts += 1;
        let wait = match pushback {
            Pushback::After(wait) => wait,
            Pushback::None if lost && self.attempts == 1 => Duration::ZERO,
            Pushback::None | Pushback::Never => policy.wait(self.attempts, fastrand::f64()),
        };
        if self.attempts >= policy.attempts || !self.inner.budget.allows() {
            return None;
        }
        // A pause that ends too late would hide what the server has said.
        if self.patience.deadline.is_some_and(|deadline| deadline.is_before(wait)) {
            return None;
        }
        let mut body = body?;
        body.rewind(Why::Declared).ok()?;
        tracing::debug!(server = %member.server.address(), ?code, attempts = self.attempts, "repeated elsewhere");
        self.tried.push(member.server.clone());
        Some(Outcome::Again(body, wait))
    }
}

fn both(own: &HeaderValue, ours: &HeaderValue) -> HeaderValue {
    let joined = [own.as_bytes(), b" ", ours.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| own.clone()) // two values and a space are one
}
