//! The series of a registrar, and how a registration goes from one to another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::metrics::own::{
    REGISTRAR_KEYS_REPAIRED, REGISTRAR_LEASES_LOST, REGISTRAR_REGISTERED, REGISTRAR_RENEWAL_DURATION, SERVICE, STATE,
};
use crate::metrics::{Bound, Counter, Histogram, Metrics, UpDownCounter};
use crate::registrar::stats::STATES;

/// The series of a registrar.
pub(in crate::registrar) struct RegistrarSeries {
    metrics: Option<Metrics>,
    /// Those of the services with registrations. The others are removed when one is added and they may be half of all.
    services: Mutex<Services>,
    pub(in crate::registrar) leases_lost: Counter,
    pub(in crate::registrar) renewal_duration: Histogram,
}

#[derive(Default)]
struct Services {
    all: HashMap<Box<str>, Weak<ServiceSeries>>,
    clean_up_at: usize,
}

/// The series of the registrations of one service. They end with the last of these.
pub(in crate::registrar) struct ServiceSeries {
    registered: [UpDownCounter; STATES.len()],
    pub(in crate::registrar) keys_repaired: Counter,
}

impl RegistrarSeries {
    /// Binds the series, which calls a user's code.
    pub(in crate::registrar) fn new(metrics: Option<Metrics>) -> Self {
        let leases_lost = Counter::new(Bound::new(metrics.as_ref(), &REGISTRAR_LEASES_LOST, &[]));
        let renewals = Bound::new(metrics.as_ref(), &REGISTRAR_RENEWAL_DURATION, &[]);
        let renewal_duration = Histogram::new(&REGISTRAR_RENEWAL_DURATION, renewals);
        Self { metrics, services: Mutex::default(), leases_lost, renewal_duration }
    }

    pub(in crate::registrar) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// The series of a service. They are bound without a lock: a recorder may use the registrar. Of two that are bound at the same
    /// time one is dropped before anything is recorded.
    pub(in crate::registrar) fn of(&self, service: &str) -> Arc<ServiceSeries> {
        let known = self.services().all.get(service).and_then(Weak::upgrade);
        if let Some(known) = known {
            return known;
        }
        let new = Arc::new(ServiceSeries::new(self.metrics.as_ref(), service));
        let mut services = self.services();
        if let Some(known) = services.all.get(service).and_then(Weak::upgrade) {
            drop(services); // before what was bound in vain
            return known;
        }
        if services.all.len() >= services.clean_up_at {
            services.all.retain(|_, series| series.strong_count() > 0);
            services.clean_up_at = 2 * services.all.len() + 16;
        }
        services.all.insert(service.into(), Arc::downgrade(&new));
        drop(services);
        new
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        // Nothing panics while it is held.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceSeries {
    fn new(metrics: Option<&Metrics>, service: &str) -> Self {
        let of_state = |state| Bound::new(metrics, &REGISTRAR_REGISTERED, &[(SERVICE, service), (STATE, state)]);
        let repaired = Bound::new(metrics, &REGISTRAR_KEYS_REPAIRED, &[(SERVICE, service)]);
        Self {
            registered: STATES.map(|state| UpDownCounter::new(of_state(state))),
            keys_repaired: Counter::new(repaired),
        }
    }
}

/// A registration as the series count it, until it is dropped: never under a lock, as all that records.
pub(in crate::registrar) struct Counted {
    pub(in crate::registrar) series: Arc<ServiceSeries>,
    /// The position of its state; `None` once it has left.
    at: Option<usize>,
}

/// A change of state that is recorded once no lock is held. The order of several does not matter: they are sums.
pub(in crate::registrar) struct Move {
    series: Arc<ServiceSeries>,
    from: Option<usize>,
    to: Option<usize>,
}

impl Counted {
    /// Counts a registration whose state is at this position.
    pub(in crate::registrar) fn new(series: Arc<ServiceSeries>, at: Option<usize>) -> Self {
        at.into_iter().for_each(|at| series.registered[at].add(1));
        Self { series, at }
    }

    /// Its state is at another position from here on.
    pub(in crate::registrar) fn move_to(&mut self, to: Option<usize>) -> Option<Move> {
        let from = std::mem::replace(&mut self.at, to);
        (from != to).then(|| Move { series: self.series.clone(), from, to })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.at.into_iter().for_each(|at| self.series.registered[at].add(-1));
    }
}

impl Move {
    pub(in crate::registrar) fn record(self) {
        self.to.into_iter().for_each(|to| self.series.registered[to].add(1));
        self.from.into_iter().for_each(|from| self.series.registered[from].add(-1));
    }
}
