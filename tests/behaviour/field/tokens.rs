//! Passwords that are wrong, and an etcd that is far away.

use std::time::Duration;

use etcd_client::Client;
use test_support::{Etcd, FrameProxy, Proxy, Rule};
use tokio::time::{sleep, timeout};
use tonic_etcd::{EtcdOptions, Instance, Registrar, ResolutionState, Resolver};

use super::{as_root, calls, protect};
use crate::support::{PATIENCE, servers_are, until};

/// F8: a wrong password, ten services, a registration and three endpoints: one check in five seconds for the resolver, and one
/// for the registrar. Once the password is right, all is well within 6 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_checked_once_in_five_seconds() {
    let etcd = Etcd::builder().arg("--bcrypt-cost=4").start();
    let root: Client = protect(&etcd).await;
    let proxies: Vec<_> = (0..3).map(|_| Proxy::to(etcd.address())).collect();
    let checks = calls(&etcd, "Authenticate");
    let wrong = EtcdOptions::new(proxies.iter().map(Proxy::endpoint)).user("root", "another");
    let resolver = Resolver::builder(wrong.clone()).connect_lazy().unwrap();
    let mut resolutions = Vec::new();
    for service in 0..10 {
        resolutions.push(resolver.resolve(format!("s{service}")).unwrap());
    }
    let registrar = Registrar::builder(wrong).connect_lazy().unwrap();
    let registration = registrar.register("s0", Instance::new("h:1").unwrap()).unwrap();
    for resolution in &resolutions {
        let said = async || resolution.last_error().filter(|error| error.to_string().contains("authentication failed"));
        until("what is wrong", said).await;
    }
    sleep(Duration::from_secs(12)).await;
    let made = calls(&etcd, "Authenticate") - checks;
    assert!((4..=6).contains(&made), "{made} checks in some 12 s");
    assert_eq!(proxies.iter().map(Proxy::connections).sum::<usize>(), 2, "endpoints are not rotated for it");
    root.auth_client().user_change_password("root", "another").await.unwrap();
    let within = Duration::from_secs(7);
    registration.ready(within).await.unwrap();
    for resolution in &resolutions {
        resolution.ready(within).await.unwrap();
        until("current", async || {
            matches!(resolution.state(), ResolutionState::Current | ResolutionState::ConfirmedEmpty).then_some(())
        })
        .await;
    }
}

/// F11: a second away: one round trip for each thing that is asked, and one password check.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_far_away_is_asked_for_each_thing_once() {
    let etcd = Etcd::builder().arg("--bcrypt-cost=4").start();
    drop(protect(&etcd).await);
    let proxy = FrameProxy::to(etcd.address());
    proxy.rule(Rule::delay(Duration::from_millis(500)));
    let registrar = Registrar::builder(as_root([proxy.endpoint()])).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(Duration::from_secs(8)).await.unwrap();
    let lease = registration.lease_id();
    let resolver = Resolver::builder(as_root([proxy.endpoint()])).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    // Over several renewals, and proofs of quiet streams.
    until("three renewals", async || (calls(&etcd, "LeaseKeepAlive") == 1 && renewals(&etcd) >= 3).then_some(())).await;
    assert_eq!(proxy.streams("Authenticate"), 2, "one of the resolver, one of the registrar");
    assert_eq!((proxy.connections(), proxy.streams("LeaseKeepAlive")), (2, 1));
    assert_eq!(registration.lease_id(), lease);
    assert_eq!(resolution.state(), ResolutionState::Current);
}

fn renewals(etcd: &Etcd) -> usize {
    let method = "grpc_method=\"LeaseKeepAlive\"";
    etcd.metric_with("grpc_server_msg_received_total", method).unwrap_or_default() as usize
}

/// etcd is wiped: it waits for the log entry that an old token names, for as long as a request lasts. Another is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_etcd_that_was_wiped_is_not_waited_for() {
    let etcd = Etcd::builder().arg("--bcrypt-cost=4").start();
    drop(protect(&etcd).await);
    let registrar = Registrar::builder(as_root([etcd.endpoint()])).ttl(Duration::from_secs(5)).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    let resolution = Resolver::builder(as_root([etcd.endpoint()])).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    let lease = registration.lease_id();
    etcd.kill();
    etcd.wipe();
    etcd.start_again();
    let again = async || registration.lease_id().filter(|id| Some(*id) != lease && registration.is_registered());
    assert!(timeout(Duration::from_secs(6), until("registered again", again)).await.is_ok(), "{registration:?}");
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    admin.kv_client().put("s/h:2", "h:2", None).await.unwrap();
    let seen = timeout(Duration::from_secs(6), servers_are(&resolution, &["h:1", "h:2"])).await;
    assert!(seen.is_ok(), "{resolution:?}");
}
