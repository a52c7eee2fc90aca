//! A policy that counts the sets of ready servers that it is given, and that keeps one server busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tonic_etcd::policy::{AttemptEnd, Call, LeastRequest, Pick, Picker, Policy, ReadySet};

/// Sends every second call to one server, so that what its calls end with weighs, however many servers there are. The others go
/// to all servers by least request.
#[derive(Debug)]
pub(crate) struct FirstServerPreferred {
    /// Its address.
    pub(crate) first: String,
    pub(crate) sets: Arc<AtomicU64>,
}

struct HalfToOne {
    one: Option<usize>,
    others: Arc<dyn Picker>,
    calls: AtomicUsize,
}

impl Policy for FirstServerPreferred {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        self.sets.fetch_add(1, Ordering::Relaxed);
        let one = set.servers().iter().position(|server| server.address().to_string() == self.first);
        Arc::new(HalfToOne { one, others: LeastRequest::new().picker(set), calls: AtomicUsize::new(0) })
    }
}

impl Picker for HalfToOne {
    fn pick(&self, call: &Call<'_>) -> Pick {
        match self.one {
            Some(one) if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => Pick::Server(one),
            _ => self.others.pick(call),
        }
    }

    fn ended(&self, end: &AttemptEnd<'_>) {
        self.others.ended(end);
    }
}
