//! Members that are frozen when a client starts.

use std::time::Duration;

use test_support::Cluster;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Resolver};

/// What the fault took was 15 s; what it takes now is below one.
const SOON: Duration = Duration::from_secs(3);

/// F4: one of three members is frozen when a client starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_frozen_from_the_start_costs_nobody_more_than_a_moment() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(3)).await.unwrap();
    let frozen = (cluster.leader() + 1) % 3;
    cluster.member(frozen).freeze();
    let options = EtcdOptions::new(cluster.endpoints());
    let mut resolutions = Vec::new();
    for number in 0..12 {
        let resolver = Resolver::builder(options.clone()).connect_lazy().unwrap();
        resolutions.push(resolver.resolve(format!("s{number}")).unwrap());
    }
    for resolution in &resolutions {
        resolution.ready(SOON).await.unwrap();
    }
    let mut registrations = Vec::new();
    for port in 1..=12 {
        let registrar = Registrar::builder(options.clone()).connect_lazy().unwrap();
        registrations.push(registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap());
    }
    for registration in &registrations {
        registration.ready(SOON).await.unwrap();
    }
    cluster.member(frozen).thaw();
    for registration in registrations {
        registration.deregister().await.unwrap();
    }
}
