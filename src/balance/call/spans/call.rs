//! The span of a call.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::uri::PathAndQuery;
use http_body::Frame;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing::span::Id;
use tracing::{Level, Span, debug_span};

use crate::address::Address;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::spans::TARGET;
use crate::balance::call::spans::attempt::AttemptSpan;
use crate::balance::call::spans::open::{OpenSpan, SpanName};
use crate::balance::partition::Partition;
use crate::balance::status;

/// The span of one call, if it is enabled. It belongs to the call's state, and then to the body of its response;
/// dropping it before its end is the end of a call that was cancelled.
#[derive(Default)]
pub(crate) struct CallSpan(Option<Box<OpenCall>>);

struct OpenCall {
    span: OpenSpan,
    /// How many attempts were made.
    attempts: u32,
    /// The next attempt of a call that makes one at a time is a transparent retry.
    is_transparent: bool,
}

impl CallSpan {
    /// Makes the span of a call as a child of the span that is current: the caller's.
    #[inline]
    pub(crate) fn new(shared: &Partition, path: &PathAndQuery) -> Self {
        // The look that `debug_span!` begins with, without the rest of it.
        if Level::DEBUG > STATIC_MAX_LEVEL || Level::DEBUG > LevelFilter::current() {
            return Self(None);
        }
        Self(open(shared, path))
    }

    /// Makes the span of an attempt.
    ///
    /// `previous` is the number of attempts before it that a server may have processed, as `grpc-previous-rpc-attempts`
    /// has it. `is_transparent`: it takes the place of one that no server has processed, as
    /// [`CallSpan::next_is_transparent`] says too.
    #[inline]
    pub(in crate::balance::call) fn attempt(
        &mut self,
        path: &PathAndQuery,
        server: &Address,
        previous: u32,
        is_transparent: bool,
    ) -> AttemptSpan {
        AttemptSpan(self.0.as_mut().and_then(|call| call.attempt(path, server, previous, is_transparent)))
    }

    /// The next attempt is a transparent retry.
    pub(in crate::balance::call) fn next_is_transparent(&mut self) {
        if let Some(call) = &mut self.0 {
            call.is_transparent = true;
        }
    }

    /// Tells the call's own subscriber of events, if the call has a span.
    pub(in crate::balance::call) fn tell(&self, events: impl FnOnce()) {
        match &self.0 {
            Some(call) => call.span.tell(events),
            None => events(),
        }
    }

    /// Returns the span of events about the call: its own, or, without one, that of the caller.
    pub(in crate::balance::call) fn id(&self) -> Option<Id> {
        self.0.as_ref().map_or_else(|| Span::current().id(), |call| call.span.span().id())
    }

    /// Takes what the caller gets. The span ends with a failure; with a response it goes on until the end of that.
    #[inline]
    pub(crate) fn head(&mut self, result: &mut Result<Response<ResponseBody>, Status>) {
        if let Some(call) = self.0.take() {
            head(call, result);
        }
    }

    /// Takes what is read of the response. `code` is what the trailers have. The span ends with the response.
    #[inline]
    pub(in crate::balance::call) fn frame(&mut self, frame: Option<&Result<Frame<Bytes>, Status>>, code: Option<Code>) {
        if self.0.is_some() && frame.is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) {
            self.end_of_response(frame, code);
        }
    }

    #[cold]
    fn end_of_response(&mut self, last: Option<&Result<Frame<Bytes>, Status>>, code: Option<Code>) {
        let Some(call) = self.0.take() else { return };
        match last {
            Some(Err(status)) => call.end_with(status),
            Some(Ok(frame)) => match frame.trailers_ref().and_then(Status::from_header_map) {
                Some(status) => call.end_with(&status),
                None => call.end(Code::Unknown),
            },
            None => call.end(code.unwrap_or(Code::Unknown)), // a response without trailers has no status
        }
    }
}

#[cold]
fn open(shared: &Partition, path: &PathAndQuery) -> Option<Box<OpenCall>> {
    // A copy: a subscriber is the user's code, and must not run under the watch's lock. Only an enabled span asks for
    // it.
    let service = || -> Arc<str> { shared.channel_status.borrow().directory.service.clone() };
    let span = debug_span!(
        target: TARGET,
        "call",
        otel.name = %SpanName("Sent", path),
        otel.kind = "client",
        service = &*service(),
        grpc.status = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    );
    Some(Box::new(OpenCall { span: OpenSpan::of(span)?, attempts: 0, is_transparent: false }))
}

#[cold]
fn head(mut call: Box<OpenCall>, result: &mut Result<Response<ResponseBody>, Status>) {
    match result {
        Err(status) => call.end_with(status),
        Ok(response) if response.body().is_over() => match status::code_in(response.headers()) {
            Some(Code::Ok) => call.end(Code::Ok),
            _ => match Status::from_header_map(response.headers()) {
                Some(status) => call.end_with(&status),
                None => call.end(Code::Unknown),
            },
        },
        Ok(response) => {
            // Of a response that was held back the status is known: the call ends with it, also if nobody reads it.
            if let Some(code) = response.body().code_of_whole() {
                call.span.set_code(code);
            }
            response.body_mut().set_span(CallSpan(Some(call)));
        }
    }
}

impl OpenCall {
    #[cold]
    fn attempt(
        &mut self,
        path: &PathAndQuery,
        server: &Address,
        previous: u32,
        is_transparent: bool,
    ) -> Option<Box<OpenSpan>> {
        self.attempts = self.attempts.saturating_add(1);
        let is_transparent = std::mem::take(&mut self.is_transparent) || is_transparent;
        let attempts = self.attempts;
        let make = || {
            debug_span!(
                target: TARGET,
                parent: self.span.span(),
                "attempt",
                otel.name = %SpanName("Attempt", path),
                otel.kind = "client",
                server = %server,
                attempt = i64::from(attempts), // OpenTelemetry has signed integers alone
                "previous-rpc-attempts" = i64::from(previous),
                "transparent-retry" = is_transparent,
                grpc.status = Empty,
                otel.status_code = Empty,
            )
        };
        OpenSpan::of(self.span.tell(make)).map(Box::new)
    }

    fn end(mut self, code: Code) {
        self.span.set_code(code);
    }

    fn end_with(self, status: &Status) {
        if status.code() != Code::Ok {
            self.span.describe(status.message());
        }
        self.end(status.code());
    }
}
