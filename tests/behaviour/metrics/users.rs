//! Recorders are code of users: they may use every handle, and panic.

use std::sync::{Arc, OnceLock};

use test_support::Recorder;
use tonic_etcd::metrics::{self, BoundInstrument, Instrument};
use tonic_etcd::{Instance, Registrar, Registration, Resolution, Resolver};

use crate::metrics::{shows, until_metrics};
use crate::support::{PATIENCE, World, servers_are};

/// What it may use.
struct Handles {
    resolution: Resolution,
    registrar: Registrar,
    registration: Registration,
}

impl Handles {
    fn use_all(&self) {
        let Self { resolution, registrar, registration } = self;
        drop(format!("{:?} {:?} {:?}", resolution.stats(), resolution.state(), resolution.snapshot()));
        drop(format!("{:?} {:?} {:?}", registrar.stats(), registrar.health(), registration.state()));
        registration.resume();
    }
}

/// A panic that no hook prints.
fn panic_silently() -> ! {
    std::panic::resume_unwind(Box::new("asked for"))
}

/// Uses the handles, records, and panics.
#[derive(Clone, Default)]
struct Curious {
    handles: Arc<OnceLock<Handles>>,
    recorder: Recorder,
}

struct Series {
    curious: Curious,
    bound: Box<dyn BoundInstrument>,
}

impl metrics::Recorder for Curious {
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
        self.handles.get().into_iter().for_each(Handles::use_all);
        Box::new(Series { curious: self.clone(), bound: self.recorder.bind(instrument, labels) })
    }
}

impl BoundInstrument for Series {
    fn record(&self, value: f64) {
        self.bound.record(value);
        self.curious.handles.get().into_iter().for_each(Handles::use_all);
        panic_silently();
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.curious.handles.get().into_iter().for_each(Handles::use_all);
        if !std::thread::panicking() {
            panic_silently();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_may_use_all_handles_and_panic() {
    let (world, curious) = (World::start().await, Curious::default());
    let resolver = Resolver::builder([world.etcd.endpoint()]).metrics(curious.clone()).connect_lazy().unwrap();
    let registrar = Registrar::builder([world.etcd.endpoint()]).metrics(curious.clone()).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    let registration = registrar.register("s", Instance::new("10.0.0.1:1").unwrap()).unwrap();
    let handles = Handles { resolution: resolution.clone(), registrar: registrar.clone(), registration };
    assert!(curious.handles.set(handles).is_ok());
    let handles = curious.handles.get().unwrap();
    handles.registration.ready(PATIENCE).await.unwrap();
    servers_are(&resolution, &["10.0.0.1:1"]).await;
    let recorder = &curious.recorder;
    shows(recorder, "tonic_etcd.resolver.instances{service=s,state=current}", 1.0).await;
    shows(recorder, "tonic_etcd.registrar.registered{service=s,state=registered}", 1.0).await;
    // Another service binds series, and drops them.
    let second = registrar.register("t", Instance::new("10.0.0.1:1").unwrap()).unwrap();
    second.ready(PATIENCE).await.unwrap();
    world.delete("s/10.0.0.1:1").await;
    shows(recorder, "tonic_etcd.registrar.keys_repaired{service=s}", 1.0).await;
    let bound = recorder.bound();
    second.deregister().await.unwrap();
    until_metrics(recorder, "the end of a service", || recorder.bound() < bound).await;
    shows(recorder, "tonic_etcd.registrar.registered{service=t,state=registered}", 0.0).await;
    assert_eq!(registrar.stats().registered().map(|(_, state, _)| state).collect::<Vec<_>>(), ["registered"]);
}
