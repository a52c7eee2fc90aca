//! The trace context in the metadata of requests, as W3C's `traceparent`.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap};
use tonic::{Request, Status};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// An interceptor for clients: sends the context of the current span. It runs before the channel, so that this is the
/// caller's span.
#[allow(clippy::unnecessary_wraps)] // as interceptors are
pub(crate) fn send_trace(mut request: Request<()>) -> Result<Request<()>, Status> {
    let context = Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut Outgoing(request.metadata_mut()));
    Ok(request)
}

/// Makes a server's span a child of the one that the request names.
pub(crate) fn continue_trace(span: &Span, metadata: &MetadataMap) {
    let context = TraceContextPropagator::new().extract(&Incoming(metadata));
    let _ = span.set_parent(context); // fails only where the span is not traced
}

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a MetadataMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let text = |key| if let KeyRef::Ascii(key) = key { Some(key.as_str()) } else { None };
        self.0.keys().filter_map(text).collect()
    }
}
