//! The end of an attempt, as a picker gets it.

use std::time::Duration;

use tonic::Code;

use crate::balance::policy::set::server::ReadyServer;

/// The end of one attempt, for [`Picker::ended`](crate::policy::Picker::ended).
#[derive(Clone, Debug)]
pub struct AttemptEnd<'a> {
    pub(crate) server: &'a ReadyServer,
    /// As the channel counts it for the server.
    pub(crate) result: AttemptResult,
    /// From when the request was handed to HTTP/2.
    pub(crate) time_to_head: Option<Duration>,
    /// Never less than the time to the head.
    pub(crate) time_to_end: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptResult {
    /// With this code. The server sent it, or the channel made it because the connection was lost,
    /// the stream was reset or the deadline passed.
    Status(Code),
    /// The server did not process the attempt: it refused the stream, it sent a GOAWAY that does not
    /// cover the stream, or the connection ended before the request was sent.
    NotProcessed,
    /// The caller dropped the call or its response, the request's own body failed, or the channel
    /// gave the attempt up for another one
    /// ([`RetryPolicy::attempt_timeout`](crate::RetryPolicy::attempt_timeout),
    /// [`RetryPolicy::hedge_after`](crate::RetryPolicy::hedge_after)). This only tells that the
    /// server had not finished by then.
    Dropped,
}

impl<'a> AttemptEnd<'a> {
    /// The server of the attempt.
    pub fn server(&self) -> &'a ReadyServer {
        self.server
    }

    /// How the attempt ended.
    pub fn result(&self) -> AttemptResult {
        self.result
    }

    /// The time from sending the request to the headers of the response; `None` if no headers have
    /// come.
    pub fn time_to_head(&self) -> Option<Duration> {
        self.time_to_head
    }

    /// The time from sending the request to the end of the attempt: to the trailers of a response,
    /// or to the failure.
    pub fn time_to_end(&self) -> Duration {
        self.time_to_end
    }
}
