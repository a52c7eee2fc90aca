//! What is told of servers: their state, and their connections.
#![allow(clippy::float_cmp)] // counts, which are whole numbers

use std::time::Duration;

use test_support::Recorder;
use tokio::net::TcpStream;
use tonic_etcd::Registrar;

use super::{Served, waiting};
use crate::metrics::{ended, shows};
use crate::support::{PATIENCE, World};

fn state(service: &str, state: &str) -> String {
    format!("tonic_etcd.server.state{{service={service},state={state}}}")
}

fn connections(service: &str) -> String {
    format!("tonic_etcd.server.connections{{service={service}}}")
}

fn registrar(world: &World, recorder: &Recorder) -> Registrar {
    Registrar::builder([world.etcd.endpoint()]).metrics(recorder.clone()).connect_lazy().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_counted_in_each_state_and_for_each_service() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let registrar = registrar(&world, &recorder);
    let say = |serve: tonic_etcd::Serve| serve.service("t").propagation_delay(Duration::from_millis(50));
    let mut served = Served::start(&registrar, say).await;
    let call = waiting(&served).await;
    served.control.ready(PATIENCE).await.unwrap();
    for service in ["s", "t"] {
        shows(&recorder, &state(service, "serving"), 1.0).await;
        shows(&recorder, &connections(service), 1.0).await;
        assert_eq!(recorder.values(&state(service, "starting")), [1.0, -1.0]);
    }
    let further = TcpStream::connect(served.address).await.unwrap();
    shows(&recorder, &connections("s"), 2.0).await;
    drop(further);
    shows(&recorder, &connections("s"), 1.0).await;

    served.stop();
    shows(&recorder, &state("s", "draining"), 1.0).await;
    assert_eq!(recorder.sum("tonic_etcd.server.state"), 2.0, "{}", recorder.text());
    served.me.answers.add_permits(1);
    call.await.unwrap().unwrap();
    served.end().await.unwrap();
    drop(registrar);
    ended(&recorder).await;
    for service in ["s", "t"] {
        for name in ["starting", "serving", "leaving", "draining"] {
            assert_eq!(recorder.values(&state(service, name)), [1.0, -1.0], "{service} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_have_a_recorder_of_its_own_and_is_not_counted_once_it_is_dropped() {
    let (world, recorder, own) = (World::start().await, Recorder::default(), Recorder::default());
    let served = Served::ready(&registrar(&world, &recorder), |serve| serve.metrics(own.clone())).await;
    let client = TcpStream::connect(served.address).await.unwrap();
    shows(&own, &state("s", "serving"), 1.0).await;
    shows(&own, &connections("s"), 1.0).await;
    assert_eq!(recorder.sum("tonic_etcd.server.state"), 0.0);
    served.task.abort();
    shows(&own, &state("s", "serving"), 0.0).await;
    shows(&own, &connections("s"), 0.0).await;
    drop(client);
}
