//! A span that is enabled, until its end is recorded.

use std::fmt;

use http::uri::PathAndQuery;
use tonic::Code;
use tracing::dispatcher::with_default;
use tracing::{Dispatch, Span};

use crate::panics::catch;
use crate::service_config::CODES;

/// An enabled span. It ends when it is dropped, with the status that was set.
pub(super) struct OpenSpan {
    span: Span,
    /// What it ends with. `CANCELLED` until another one is set: nobody waits for the end of what is dropped.
    code: Code,
}

impl OpenSpan {
    /// `None` if the span is not enabled.
    pub(super) fn of(span: Span) -> Option<Self> {
        (!span.is_disabled()).then_some(Self { span, code: Code::Cancelled })
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Runs what tells of events and spans within this one, for the same subscriber. That of the thread may be another one by now,
    /// and knows nothing of this span: a call may be made in one place and polled in another.
    pub(super) fn tell<T>(&self, tell: impl FnOnce() -> T) -> T {
        with_default(&self.dispatch(), tell)
    }

    fn dispatch(&self) -> Dispatch {
        self.span.with_subscriber(|(_, dispatch)| dispatch.clone()).unwrap_or_default() // an enabled span has one
    }

    /// Sets what it ends with.
    pub(super) fn set_code(&mut self, code: Code) {
        self.code = code;
    }

    /// Records the text of the status that it ends with.
    pub(super) fn describe(&self, message: &str) {
        if !message.is_empty() {
            let _ = catch(|| self.span.record("otel.status_description", message));
        }
    }
}

impl Drop for OpenSpan {
    /// The subscriber is the user's code. If it panics here, that costs its record of the span and not the call; a second panic
    /// would end the process.
    fn drop(&mut self) {
        let dispatch = self.dispatch();
        let (span, code) = (std::mem::replace(&mut self.span, Span::none()), self.code);
        let _ = catch(|| {
            span.record("grpc.status", name(code));
            span.record("otel.status_code", if code == Code::Ok { "OK" } else { "ERROR" });
        });
        // The registry of tracing-subscriber closes the span around it in whatever subscriber is the thread's.
        let _ = catch(|| with_default(&dispatch, || drop(span)));
    }
}

/// The name of a span in OpenTelemetry: `Sent.pkg.Service.Method`.
pub(super) struct SpanName<'a>(pub(super) &'static str, pub(super) &'a PathAndQuery);

impl fmt::Display for SpanName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind, path) = self;
        let method = path.path();
        f.write_str(kind)?;
        method.strip_prefix('/').unwrap_or(method).split('/').try_for_each(|part| write!(f, ".{part}"))
    }
}

/// Returns the name of a code, as gRPC writes it.
fn name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN") // each code has one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_method_with_dots() {
        let name = |path| SpanName("Sent", &PathAndQuery::from_static(path)).to_string();
        assert_eq!(name("/helloworld.Greeter/SayHello"), "Sent.helloworld.Greeter.SayHello");
        assert_eq!(name("/helloworld.Greeter/SayHello?query"), "Sent.helloworld.Greeter.SayHello");
        assert_eq!(name("/"), "Sent.");
        assert_eq!(name("/a/b/c"), "Sent.a.b.c");
    }

    #[test]
    fn codes_have_their_own_names() {
        assert_eq!(
            [Code::Ok, Code::Cancelled, Code::Unauthenticated].map(name),
            ["OK", "CANCELLED", "UNAUTHENTICATED"]
        );
    }
}
