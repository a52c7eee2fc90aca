//! What OpenTelemetry makes of the spans.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use tracing::Dispatch;

use super::*;

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().append(&mut batch);
        Ok(())
    }
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_trace_has_the_call_its_attempts_and_the_server() {
    let kept = Kept::default();
    let provider = provider(kept.clone());
    let _guard = tracing::dispatcher::set_default(&Dispatch::new(traced(&provider)));
    greet(serve().unwrap()).await.unwrap();
    provider.shutdown().unwrap();

    let spans = kept.0.lock().unwrap().clone();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let (order, sent) = (named("order"), named("Sent.helloworld.Greeter.SayHello"));
    let (attempts, served) = (named("Attempt.helloworld.Greeter.SayHello"), named("Recv.helloworld.Greeter.SayHello"));
    assert_eq!([order.len(), sent.len(), attempts.len(), served.len()], [1, 1, 2, 2], "{spans:#?}");
    let trace = order[0].span_context.trace_id();
    assert!(spans.iter().all(|span| span.span_context.trace_id() == trace), "one trace: {spans:#?}");

    let (caller, call) = (order[0].span_context.span_id(), sent[0].span_context.span_id());
    assert_eq!((sent[0].parent_span_id, &sent[0].span_kind), (caller, &SpanKind::Client));
    assert_eq!((&sent[0].status, attribute(sent[0], "grpc.status")), (&Status::Ok, "OK".into()));
    assert!(attempts.iter().all(|attempt| attempt.parent_span_id == call && attempt.span_kind == SpanKind::Client));
    let told: Vec<_> = attempts
        .iter()
        .map(|attempt| (attribute(attempt, "grpc.status"), attribute(attempt, "previous-rpc-attempts")))
        .collect();
    assert_eq!(told, [("UNAVAILABLE".into(), "0".into()), ("OK".into(), "1".to_owned())]);
    assert!(matches!(attempts[0].status, Status::Error { .. }));
    assert!(attempts[0].end_time <= attempts[1].start_time && attempts[1].end_time <= sent[0].end_time, "{spans:#?}");
    assert!(served.iter().all(|span| span.parent_span_id == caller), "the interceptor runs in the caller's span");
}
