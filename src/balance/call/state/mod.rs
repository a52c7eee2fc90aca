//! What a call keeps between its attempts. `earlier.rs` has what it keeps of those that failed.

mod earlier;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::balance::builder::call_options::{CallTimeout, ReportServer, WaitForReady};
use crate::balance::call::attempt::InFlight;
use crate::balance::call::deadline::Deadline;
use crate::balance::call::pick::{PickRequest, WaitLimits};
use crate::balance::call::replay::ReplayBody;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::retry::Pushback;
use crate::balance::call::spans::{AttemptSpan, CallSpan};
use crate::balance::call::state::earlier::EarlierAttempts;
use crate::balance::method_config::MethodRetry;
use crate::balance::method_config::message_limit::MessageLimit;
use crate::balance::metrics::CallRecord;
use crate::balance::partition::Partition;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::status;
use crate::balance::status::headers::{self, RequestHeaders, field_size};
use crate::balance::subchannel::Subchannel;

/// A call knows so many of the servers that have failed it, the last ones: more would only make its picks slower.
const MOST_FAILED_SERVERS: usize = 8;

/// The decision after an attempt.
pub(super) enum AttemptOutcome {
    /// The call ends with this.
    Done(Result<Response<ResponseBody>, Status>),
    /// The call is retried, after a pause.
    Retry(ReplayBody, Duration),
    /// No server has processed the call: it is sent again.
    Unprocessed(ReplayBody),
    /// The call would be retried, but no attempt is left for it. It ends with this, unless another of its attempts is in flight.
    Failed(Result<Response<ResponseBody>, Status>),
}

/// The headers of a request.
enum Headers {
    /// For a pick, and for the next attempt.
    Whole(HeaderMap),
    /// An attempt has taken them. This copy is one allocation; a map would be two.
    Kept(Vec<(HeaderName, HeaderValue)>),
    /// An attempt has taken them, and they can be made again without a copy.
    Plain,
}

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

/// The state of one call, from its first poll to the head of its response.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, and the future of a call has no room for enums")]
pub(super) struct CallState {
    /// The attempt of a call that makes one at a time. First, so that it is dropped before what it belongs to.
    pub(super) in_flight: Option<InFlight>,
    pub(super) shared: Arc<Partition>,
    /// The HTTP method, unless it is POST, as in gRPC.
    method: Option<Box<Method>>,
    pub(super) path: PathAndQuery,
    /// Of the next attempt. An attempt takes them; `restore_headers` brings them back.
    headers: Headers,
    /// The headers can be made again without a copy.
    is_plain: bool,
    /// For pickers.
    extensions: Extensions,
    /// An upper bound for the size of `headers`, as HTTP/2 counts it.
    pub(super) header_size: u32,
    /// The request's body between attempts. It is kept here, so that no future has to carry it along.
    pub(super) body: Option<ReplayBody>,
    /// The response names its server.
    pub(super) reports_server: bool,
    pub(super) wait_limits: WaitLimits,
    /// How it is retried after a server may have processed it; `None` if it is not.
    pub(super) retry: Option<Arc<MethodRetry>>,
    /// The largest message of its response, if it has a limit.
    pub(super) max_response: MessageLimit,
    /// When the first attempt was sent, of a call that may have several at once: milliseconds since the channel's epoch, modulo
    /// 2^32. 0 before. Short, because the call's future has no room for more.
    pub(super) first_sent_ms: u32,
    /// Attempts that failed, or were given up, after a server may have processed them.
    pub(super) attempts: u32,
    /// What the server of the last of them has said about further ones. Once one has said that it wants none, that stays.
    pub(super) pushback: Pushback,
    /// A connection has ended, and this call may be the reason for it. One more connection is risked, and no further one.
    pub(super) is_suspect: bool,
    /// It has a route, and may go to the default servers too.
    pub(super) or_default: bool,
    /// The last servers that failed this call, or some of them. They are picked again when no other is left.
    pub(super) failed_servers: Vec<Arc<Subchannel>>,
    /// What remains of the attempts that failed.
    pub(super) earlier: EarlierAttempts,
    /// What the call counts.
    pub(super) record: CallRecord,
    /// Until the head of the response. Last, so that it is dropped after the spans of its attempts.
    pub(super) span: CallSpan,
}

impl CallState {
    /// Takes a request. The call begins with [`CallState::begin`].
    pub(super) fn new(shared: Arc<Partition>, request: Request<tonic::body::Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let started = shared.epoch; // until the call begins
        let settings = &shared.settings;
        let grpc_method = parts.extensions.get::<tonic::GrpcMethod<'static>>();
        let record = shared.metrics.record(grpc_method);
        let is_generated = grpc_method.is_some();
        // Most requests have no extension but the generated client's: then no other is looked up.
        let extensions = (parts.extensions.len() > usize::from(is_generated)).then_some(&parts.extensions);
        let RequestHeaders { size, timeout, user_agent, is_plain } = RequestHeaders::scan(&parts.headers);
        let is_plain = is_plain && user_agent.is_none();
        let methods = shared.methods.load();
        let method = methods.of(parts.uri.path());
        let limit = method.time_limit(extensions.and_then(|own| own.get::<CallTimeout>()).copied());
        let (has_timeout, deadline) = (timeout.is_some(), Deadline::new(timeout, limit, started));
        let wait_for_ready =
            extensions.and_then(|own| own.get()).map_or(method.wait_for_ready, |WaitForReady(own)| *own);
        let (retry, max_response) = (method.retry.clone(), method.max_response);
        let body = method.max_request.limit_request(body);
        drop(methods);
        let reports_server = extensions.and_then(|own| own.get()).map_or(settings.served_by, |ReportServer(own)| *own);
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let span = CallSpan::new(&shared, &path);
        let agent = user_agent.map_or_else(|| settings.user_agent.clone(), |own| joined(own, &settings.user_agent));
        let header_size = size + field_size(USER_AGENT.as_str(), agent.len()); // a user agent of the call counts twice
        parts.headers.insert(USER_AGENT, agent);
        Self {
            in_flight: None,
            method: (parts.method != Method::POST).then(|| Box::new(parts.method)),
            retry,
            max_response,
            path,
            headers: Headers::Whole(parts.headers),
            // Only what an attempt sends for a deadline can be made again, and not a text that is no timeout.
            is_plain: is_plain && (!has_timeout || deadline.is_some()),
            extensions: parts.extensions,
            header_size: u32::try_from(header_size).unwrap_or(u32::MAX),
            body: Some(ReplayBody::new(body, settings.replay_limit)),
            reports_server,
            wait_limits: WaitLimits { deadline, wait_for_ready, started },
            first_sent_ms: 0,
            attempts: 0,
            pushback: Pushback::None,
            is_suspect: false,
            or_default: false,
            failed_servers: Vec::new(),
            earlier: EarlierAttempts::default(),
            record,
            span,
            shared,
        }
    }

    /// Waits for the first service config, and goes on with what it says. Its timeout counts from then: only now is it known.
    ///
    /// # Errors
    /// When the deadline of the call itself has passed meanwhile.
    pub(super) async fn await_service_config(&mut self) -> Result<(), Status> {
        self.shared.config.wait(self.shared.wait_end(self.wait_limits)).await;
        if self.wait_limits.deadline.is_some_and(|deadline| deadline.has_passed()) {
            return Err(self.deadline_exceeded_unsent());
        }
        let methods = self.shared.methods.load();
        let method = methods.of(self.path.path());
        let of_document = method.document_timeout.and_then(|timeout| Deadline::of(timeout, Instant::now()));
        let own = self.wait_limits.deadline;
        self.wait_limits.deadline = own.into_iter().chain(of_document).min_by_key(|deadline| deadline.at);
        let own = self.extensions.get::<WaitForReady>();
        self.wait_limits.wait_for_ready = own.map_or(method.wait_for_ready, |WaitForReady(own)| *own);
        (self.retry, self.max_response) = (method.retry.clone(), method.max_response);
        if let Some(body) = &mut self.body {
            body.limit_messages(method.max_request);
        }
        Ok(())
    }

    /// Begins the call: its deadline and its waits count from now.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        self.wait_limits.started = now;
        self.record.begin(Nanos::new(self.shared.since_epoch(now)));
        if let Some(deadline) = self.wait_limits.deadline {
            self.wait_limits.deadline = Deadline::of(deadline.timeout(), now);
        }
    }

    /// Makes the span of an attempt. `previous` is the number of attempts that went before.
    #[inline]
    pub(super) fn attempt_span(&mut self, server: &Subchannel, previous: u32, is_transparent: bool) -> AttemptSpan {
        self.span.attempt(&self.path, server.address(), previous, is_transparent)
    }

    /// The HTTP method of the request.
    pub(super) fn method(&self) -> Method {
        self.method.as_deref().cloned().unwrap_or(Method::POST)
    }

    /// Whether a generated client makes the call: it gets failures as statuses with a source, and a proxy gets them as headers.
    pub(super) fn is_generated(&self) -> bool {
        self.extensions.get::<tonic::GrpcMethod<'static>>().is_some()
    }

    /// Takes the headers for an attempt, and keeps a copy for the next.
    pub(super) fn take_headers(&mut self) -> HeaderMap {
        self.restore_headers();
        let kept = match &self.headers {
            Headers::Whole(headers) if !self.is_plain => {
                let mut kept = Vec::with_capacity(headers.len());
                for (name, value) in headers {
                    kept.push((name.clone(), value.clone()));
                }
                Headers::Kept(kept)
            }
            _ => Headers::Plain,
        };
        match std::mem::replace(&mut self.headers, kept) {
            Headers::Whole(headers) => headers,
            Headers::Kept(_) | Headers::Plain => HeaderMap::new(), // they were restored above
        }
    }

    /// Brings the headers back, before another attempt picks its server.
    pub(super) fn restore_headers(&mut self) {
        let kept = match &mut self.headers {
            Headers::Whole(_) => return,
            Headers::Kept(kept) => std::mem::take(kept),
            // An attempt adds the timeout.
            Headers::Plain => {
                headers::plain().into_iter().chain([(USER_AGENT, self.shared.settings.user_agent.clone())]).collect()
            }
        };
        let mut headers = HeaderMap::with_capacity(kept.len());
        for (name, value) in kept {
            headers.append(name, value);
        }
        self.headers = Headers::Whole(headers);
    }

    /// Returns what a pick needs to know of the next attempt. Its number counts attempts that a server may have processed.
    pub(super) fn pick_request(&self) -> PickRequest<'_> {
        PickRequest {
            path: self.path.path(),
            headers: match &self.headers {
                Headers::Whole(headers) => headers,
                Headers::Kept(_) | Headers::Plain => &NO_HEADERS, // restored before each pick
            },
            extensions: &self.extensions,
            attempt: self.attempts + 1,
            failed_servers: &self.failed_servers,
            avoids_refusing: false,
        }
    }

    /// Keeps further attempts away from a server, until [`MOST_FAILED_SERVERS`] others have failed the call too, or all
    /// have.
    pub(super) fn mark_tried(&mut self, server: &Arc<Subchannel>) {
        if self.failed_servers.iter().any(|failed| Arc::ptr_eq(failed, server)) {
            return;
        }
        if self.failed_servers.len() >= MOST_FAILED_SERVERS {
            self.failed_servers.remove(0);
        }
        self.failed_servers.push(server.clone());
    }

    /// Ends a call that gets no further attempt: with the last result of a server that had it, or with `status` if none had.
    pub(super) fn last_result_or(&mut self, status: Status) -> Result<Response<ResponseBody>, Status> {
        self.earlier.take_result().unwrap_or(Err(status))
    }

    /// Takes the status of the last server that did not process the call. `None` if there was none.
    pub(super) fn take_refusal(&mut self) -> Option<Status> {
        let (failure, server) = self.earlier.take_refusal()?;
        Some(status::from_failure(failure, server.subchannel.address()))
    }

    /// Makes the status of a call whose deadline passed before it was sent, or before it was sent again after it was refused.
    pub(super) fn deadline_exceeded_unsent(&mut self) -> Status {
        if let Some(refusal) = self.take_refusal() {
            return refusal;
        }
        let timeout = self.wait_limits.deadline.map_or(0, |deadline| deadline.timeout().as_millis());
        let text = format!("not sent: the {timeout} ms of the call have passed");
        status::without_server(Code::DeadlineExceeded, text.clone(), &text)
    }
}

/// Joins the call's own user agent and the channel's, as gRPC's clients do.
fn joined(own: &HeaderValue, channels: &HeaderValue) -> HeaderValue {
    let joined = [own.as_bytes(), b" ", channels.as_bytes()].concat();
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| own.clone()) // two values and a space are always a value
}
