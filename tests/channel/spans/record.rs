//! A subscriber that keeps the spans of calls and of this test.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// With one subscriber alone tracing asks, for all threads, that of the thread which comes first to a place that
/// traces.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

#[derive(Clone, Debug, Default)]
pub(super) struct Span {
    pub(super) name: &'static str,
    /// The span around it, by its number.
    pub(super) parent: Option<usize>,
    pub(super) fields: Fields,
    /// The messages of its own events.
    pub(super) events: Vec<String>,
    pub(super) is_closed: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Fields(pub(super) BTreeMap<&'static str, String>);

impl Span {
    /// A field, as text; empty if it is not there.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn status(&self) -> (&str, &str) {
        (self.field("grpc.status"), self.field("otel.status_code"))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// The spans on this thread, in the order in which they began.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Vec<Span>>>);

/// The number of a span that is kept.
struct Number(usize);

impl Recorder {
    /// Until the guard is dropped; for a runtime of one thread.
    pub(super) fn begin() -> (Self, DefaultGuard) {
        LazyLock::force(&SECOND);
        let recorder = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(recorder.clone()));
        (recorder, guard)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap()
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.lock().clone()
    }

    /// The spans of the only call, and those of its attempts. The latter are its children.
    pub(super) fn call(&self) -> (Span, Vec<Span>) {
        let spans = self.spans();
        let calls: Vec<_> = (0..spans.len()).filter(|number| spans[*number].name == "call").collect();
        assert_eq!(calls.len(), 1, "one call: {spans:#?}");
        let attempts: Vec<_> = spans.iter().filter(|span| span.name == "attempt").cloned().collect();
        assert!(attempts.iter().all(|attempt| attempt.parent == Some(calls[0])), "{spans:#?}");
        (spans[calls[0]].clone(), attempts)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target() != "tonic_etcd::call" && metadata.name() != "caller" {
            return;
        }
        assert_eq!(*metadata.level(), Level::DEBUG, "{metadata:?}");
        let span = context.span(id).unwrap();
        let parent = span.parent().and_then(|parent| parent.extensions().get::<Number>().map(|number| number.0));
        let mut kept = Span { name: metadata.name(), parent, ..Span::default() };
        attributes.record(&mut kept.fields);
        let mut spans = self.lock();
        span.extensions_mut().insert(Number(spans.len()));
        spans.push(kept);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(number) = context.span(id).unwrap().extensions().get::<Number>() {
            values.record(&mut self.lock()[number.0].fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else { return };
        if let Some(number) = span.extensions().get::<Number>() {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.lock()[number.0].events.push(fields.0.remove("message").unwrap_or_default());
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(number) = context.span(&id).unwrap().extensions().get::<Number>() {
            self.lock()[number.0].is_closed = true;
        }
    }
}
