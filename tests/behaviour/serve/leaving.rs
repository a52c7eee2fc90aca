//! Out of the directory first, then out of the clients' hands, then gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tonic_etcd::{Departure, Registrar, ServeState};

use super::{Served, gone, greet, registrar, waiting};
use crate::support::{PATIENCE, World, resolved, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_on_until_the_clients_have_seen_that_it_left() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| serve.propagation(PATIENCE)).await;
    served.stop();
    gone(&world, &served.key()).await;
    assert!(world.leases().await.is_empty(), "the last one goes with its lease");
    // Those that do not know it yet connect anew and call.
    assert_eq!(greet(&mut served.client().await, "you").await.unwrap(), "Hello you");
    assert!(matches!(served.control.state(), ServeState::Leaving));
    served.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_answered() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| serve.propagation(Duration::ZERO)).await;
    let call = waiting(&served).await;
    served.stop();
    served.reaches("draining", |state| matches!(state, ServeState::Draining { why: None, .. })).await;
    assert!(tokio::net::TcpStream::connect(served.address).await.is_err(), "nothing new is accepted");
    served.me.answers.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap(), "at last");
    served.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cut_off_at_the_end_of_the_drain() {
    let world = World::start().await;
    let limit = Duration::from_millis(300);
    let mut served = Served::ready(&registrar(&world), |serve| serve.propagation(Duration::ZERO).drain(limit)).await;
    let call = waiting(&served).await;
    let silent = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let me = served.me.clone();
    served.stop();
    served.end().await.unwrap();
    call.await.unwrap().unwrap_err();
    until("the handler's end", async || (me.ended.load(Ordering::SeqCst) == 1).then_some(())).await;
    let mut rest = Vec::new();
    let mut silent = silent;
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    drop(tokio::time::timeout(PATIENCE, ended).await.expect("connections that say nothing end as well"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_time_while_etcd_is_down_or_frozen() {
    for frozen in [false, true] {
        let world = World::start().await;
        let limit = Duration::from_millis(400);
        let registrar = Registrar::connect([world.etcd.endpoint()]).await.unwrap();
        // Where it could not leave there is nothing for clients to see, and no wait for it.
        let mut served =
            Served::ready(&registrar, |serve| serve.deregister_within(limit).propagation(PATIENCE * 10)).await;
        let call = waiting(&served).await;
        if frozen {
            world.etcd.freeze();
        } else {
            world.etcd.kill();
        }
        served.stop();
        served.reaches("draining", |state| matches!(state, ServeState::Draining { .. })).await;
        let ServeState::Draining { why: Some(why), .. } = served.control.state() else { panic!("it says why") };
        assert!(why.is_timeout(), "{why}");
        served.me.answers.add_permits(1);
        assert_eq!(call.await.unwrap().unwrap(), "at last");
        served.end().await.unwrap();
        if frozen {
            world.etcd.thaw();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_never_in_etcd_stops_at_once() {
    let world = World::start().await;
    world.etcd.kill();
    let mut served = Served::start(&registrar(&world), |serve| serve.propagation(PATIENCE * 10)).await;
    served.reaches("serving", |state| matches!(state, ServeState::Serving)).await;
    let began = Instant::now();
    served.stop();
    served.end().await.unwrap();
    assert!(began.elapsed() < PATIENCE, "no client can know it");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_marked_before_it_goes() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| {
        serve.departure(Departure::MarkDraining).propagation(Duration::from_millis(500))
    })
    .await;
    let resolution = world.resolver().await.resolve("s").await.unwrap();
    let channel = resolution.channel().unwrap();
    channel.ready(PATIENCE).await.unwrap();
    served.stop();
    resolved(&resolution, "the mark", |set| set.instances().any(tonic_etcd::Instance::is_draining)).await;
    until("no server to call", async || channel.servers().is_empty().then_some(())).await;
    assert!(matches!(served.control.state(), ServeState::Leaving), "it serves meanwhile");
    served.end().await.unwrap();
    assert!(world.contents("").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_beyond_all_time_do_no_harm() {
    let world = World::start().await;
    let forever = Duration::MAX;
    let served = Served::ready(&registrar(&world), |serve| {
        serve
            .deregister_within(forever)
            .drain(forever)
            .propagation(Duration::ZERO)
            .healthy_when(forever, || async { Ok::<_, std::io::Error>(()) })
    })
    .await;
    served.control.ready(forever).await.unwrap();
    served.control.stop();
    served.control.stop();
    served.end().await.unwrap();
}
