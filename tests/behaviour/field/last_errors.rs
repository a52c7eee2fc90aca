//! What is said of an outage: its last error, and nothing once it is over.

use std::error::Error;
use std::time::Duration;

use test_support::Proxy;
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrationState, ResolutionState, Resolver};

use crate::support::{PATIENCE, World, until};

/// F13: etcd refuses connections first, then accepts them and says nothing: that is what is said of it, by handles, health,
/// states and the errors of waits. When etcd is back nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_an_outage_is_its_last_error() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    proxy.refuse();
    let short = Duration::from_secs(1);
    let options = || EtcdOptions::from([proxy.endpoint()]).connect_timeout(short).request_timeout(short);
    let resolution = Resolver::builder(options()).connect_lazy().unwrap().resolve("s").unwrap();
    let registrar = Registrar::builder(options()).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    let said = async || {
        let wait = Duration::from_millis(1);
        let (resolved, registered) = (resolution.ready(wait).await.err(), registration.ready(wait).await.err());
        [
            resolution.last_error().map(|error| error.to_string()),
            registration.state().why().map(ToString::to_string),
            registrar.health().last_error().map(ToString::to_string),
            resolved.and_then(|error| Some(error.source()?.to_string())),
            registered.and_then(|error| Some(error.source()?.to_string())),
        ]
    };
    // Why there is no connection.
    let (closed, silent) = (|said: &str| !said.contains("SETTINGS"), |said: &str| said.contains("no HTTP/2 SETTINGS"));
    let all = async |what: &str, is: fn(&str) -> bool| {
        until(what, async || said().await.iter().all(|said| said.as_deref().is_some_and(is)).then_some(())).await;
    };
    let well = async || {
        registration.ready(PATIENCE).await.unwrap();
        until("nothing to say", async || said().await.iter().all(Option::is_none).then_some(())).await;
        assert!(matches!(registration.state(), RegistrationState::Registered), "{registration:?}");
    };
    all("closed at once", closed).await;
    proxy.stall();
    all("silent", silent).await;
    proxy.resume();
    well().await;
    assert!(matches!(resolution.state(), ResolutionState::ConfirmedEmpty | ResolutionState::Current), "{resolution:?}");
    // The next outage has errors of its own, of which the last is said; a registration stands meanwhile, and is late with its
    // renewal.
    proxy.stall();
    proxy.cut();
    let resolved = async |is: fn(&str) -> bool| {
        let said = async || resolution.last_error().filter(|error| is(&error.to_string()));
        until("the resolution", said).await;
    };
    resolved(silent).await;
    proxy.refuse();
    resolved(closed).await;
    proxy.resume();
    well().await;
}
