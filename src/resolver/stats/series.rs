//! The series of a watched service. They end with its task.

use crate::metrics::own::{
    RESOLVER_CHANGES, RESOLVER_CONNECTED, RESOLVER_HELD, RESOLVER_INSTANCES, RESOLVER_RELISTS, RESOLVER_STALENESS,
    RESOLVER_UNREADABLE, SERVICE, STATE,
};
use crate::metrics::{Bound, Counter, Gauge, Instrument, Metrics, UpDownCounter};
use crate::resolver::stats::{INSTANCE_STATES, ResolutionStats};

/// What was recorded of a service.
pub(in crate::resolver) struct ServiceSeries {
    connected: UpDownCounter,
    staleness: Gauge,
    relists: Counter,
    changes: Counter,
    unreadable: UpDownCounter,
    held: UpDownCounter,
    instances: [UpDownCounter; INSTANCE_STATES.len()],
}

impl ServiceSeries {
    /// Binds the series, which calls a user's code.
    pub(in crate::resolver) fn new(metrics: Option<&Metrics>, service: &str) -> Self {
        let of_service = |instrument: &'static Instrument| Bound::new(metrics, instrument, &[(SERVICE, service)]);
        let of_state = |state| Bound::new(metrics, &RESOLVER_INSTANCES, &[(SERVICE, service), (STATE, state)]);
        Self {
            connected: UpDownCounter::new(of_service(&RESOLVER_CONNECTED)),
            staleness: Gauge::new(of_service(&RESOLVER_STALENESS)),
            relists: Counter::new(of_service(&RESOLVER_RELISTS)),
            changes: Counter::new(of_service(&RESOLVER_CHANGES)),
            unreadable: UpDownCounter::new(of_service(&RESOLVER_UNREADABLE)),
            held: UpDownCounter::new(of_service(&RESOLVER_HELD)),
            instances: INSTANCE_STATES.map(|state| UpDownCounter::new(of_state(state))),
        }
    }

    /// Whether anybody wants to see the staleness grow.
    pub(in crate::resolver) fn takes_staleness(&self) -> bool {
        self.staleness.is_bound()
    }

    /// Records what has changed. Called without a lock, as all that runs a user's code.
    pub(in crate::resolver) fn record(&self, stats: &ResolutionStats) {
        self.connected.set(i64::from(stats.is_connected));
        self.staleness.set(stats.staleness.as_secs_f64());
        record_rest(&self.relists, stats.relists);
        record_rest(&self.changes, stats.changes);
        self.unreadable.set(signed(stats.unreadable));
        self.held.set(signed(stats.held));
        self.instances.iter().zip(stats.instances.counts).for_each(|(series, count)| series.set(signed(count)));
    }
}

/// Records what a counter lacks of its present value.
fn record_rest(counter: &Counter, value: u64) {
    let rest = value.saturating_sub(counter.value());
    if rest > 0 {
        counter.add(rest);
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
