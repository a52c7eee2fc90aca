//! Says each event that the library logs at INFO or above.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

/// From now on, for the whole process.
pub(super) fn tell() {
    registry().with(Teller).init();
}

struct Teller;

impl<S: Subscriber> Layer<S> for Teller {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if level > Level::INFO || !target.starts_with("tonic_etcd") {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        println!("event {level} {target}{}", text.0);
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A string takes it all, and what is said is one line.
        let _ = write!(self.0, " {field}={}", format!("{value:?}").replace('\n', " "));
    }
}
