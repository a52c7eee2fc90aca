//! Out of the directory first, then out of the clients' hands, then gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic_etcd::{Departure, EtcdOptions, Instance, Registrar, RegistrationOptions, RegistrationState, ServeState};

use super::{Served, gone, greet, registrar, waiting};
use crate::support::{PATIENCE, World, resolved, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_on_until_the_clients_have_seen_that_it_left() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| serve.propagation_delay(PATIENCE)).await;
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
    let mut served = Served::ready(&registrar(&world), |serve| serve.propagation_delay(Duration::ZERO)).await;
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
    let mut served =
        Served::ready(&registrar(&world), |serve| serve.propagation_delay(Duration::ZERO).drain_timeout(limit)).await;
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
        let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
        // Where it could not leave there is nothing for clients to see, and no wait for it.
        let mut served =
            Served::ready(&registrar, |serve| serve.deregister_timeout(limit).propagation_delay(PATIENCE * 10)).await;
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
    let mut served = Served::start(&registrar(&world), |serve| serve.propagation_delay(PATIENCE * 10)).await;
    served.reaches("serving", |state| matches!(state, ServeState::Serving)).await;
    let began = Instant::now();
    served.stop();
    served.end().await.unwrap();
    assert!(began.elapsed() < PATIENCE, "no client can know it");
}

/// Where nothing was ever put there is nothing to mark, and no client to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_never_ready_is_not_marked_and_stops_at_once() {
    let world = World::start().await;
    let mut served = Served::start(&registrar(&world), |serve| {
        let never = || async { Err::<(), _>("cold cache") };
        serve.departure(Departure::MarkDraining).propagation_delay(PATIENCE * 10).ready_when(never)
    })
    .await;
    served.reaches("the reason", |state| matches!(state, ServeState::Starting { why: Some(_), .. })).await;
    served.stop();
    served.end().await.unwrap();
}

/// Clients have forgotten one that has been out of the directory for long enough.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_paused_for_long_stops_at_once() {
    let world = World::start().await;
    let wait = Duration::from_secs(6);
    for (departure, key) in [(Departure::Deregister, "a"), (Departure::MarkDraining, "b")] {
        let served = Served::ready(&registrar(&world), |serve| {
            serve.departure(departure).propagation_delay(wait).registration(RegistrationOptions::new().key(key))
        })
        .await;
        served.control.pause();
        let is_out = || matches!(served.control.registrations()[0].1, RegistrationState::Paused { .. });
        until("it to be out", async || is_out().then_some(())).await;
        sleep(wait).await;
        let began = Instant::now();
        served.control.stop();
        served.end().await.unwrap();
        assert!(began.elapsed() < wait, "{departure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_marked_before_it_goes() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| {
        serve.departure(Departure::MarkDraining).propagation_delay(Duration::from_millis(500))
    })
    .await;
    let resolution = world.resolver().resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    channel.wait_until_ready(PATIENCE).await.unwrap();
    served.stop();
    resolved(&resolution, "the mark", |set| set.instances().any(tonic_etcd::Instance::is_draining)).await;
    until("no server to call", async || channel.servers().is_empty().then_some(())).await;
    assert!(matches!(served.control.state(), ServeState::Leaving), "it serves meanwhile");
    served.end().await.unwrap();
    assert!(world.contents("").await.is_empty());
}

/// Whatever is said of the instance meanwhile, it leaves.
#[tokio::test(flavor = "multi_thread")]
async fn the_mark_stays_when_the_instance_is_changed() {
    let world = World::start().await;
    let mut served = Served::ready(&registrar(&world), |serve| {
        serve.departure(Departure::MarkDraining).propagation_delay(PATIENCE * 10)
    })
    .await;
    let resolution = world.resolver().resolve("s").unwrap();
    served.stop();
    resolved(&resolution, "the mark", |set| set.instances().any(Instance::is_draining)).await;
    let address = served.address;
    served.control.update(move |_| Instance::new(address).and_then(|instance| instance.with_weight(7))).unwrap();
    resolved(&resolution, "the change", |set| set.instances().any(|it| it.weight() == Some(7))).await;
    assert!(resolution.snapshot().instances().all(Instance::is_draining));
    served.task.abort();
}

/// An update is the user's code, and may hang: the server goes on with its calls, and leaves unmarked.
#[tokio::test]
async fn an_update_that_hangs_holds_up_no_call_and_no_end() {
    let world = World::start().await;
    let limit = Duration::from_secs(4);
    let mut served = Served::ready(&registrar(&world), |serve| {
        serve.departure(Departure::MarkDraining).propagation_delay(Duration::ZERO).deregister_timeout(limit)
    })
    .await;
    let ((begun, has_begun), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
    let control = served.control.clone();
    let update = std::thread::spawn(move || {
        control.update(move |instance| {
            begun.send(()).unwrap();
            assert!(ends.recv_timeout(PATIENCE * 10).is_err(), "nothing is sent");
            instance
        })
    });
    has_begun.recv().unwrap();
    let call = waiting(&served).await;
    served.stop();
    served.reaches("draining", |state| matches!(state, ServeState::Draining { why: None, .. })).await;
    served.me.answers.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap(), "at last");
    served.end().await.unwrap();
    drop(end);
    assert!(update.join().unwrap().unwrap_err().is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_beyond_all_time_do_no_harm() {
    let world = World::start().await;
    let forever = Duration::MAX;
    let served = Served::ready(&registrar(&world), |serve| {
        serve
            .deregister_timeout(forever)
            .drain_timeout(forever)
            .propagation_delay(Duration::ZERO)
            .healthy_when(forever, || async { Ok::<_, std::io::Error>(()) })
    })
    .await;
    served.control.ready(forever).await.unwrap();
    served.control.stop();
    served.control.stop();
    served.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_marked_leaves_as_others_do() {
    let world = World::start().await;
    // Plain addresses have no room for a mark.
    let registrar = Registrar::builder([world.etcd.endpoint()]).codec(tonic_etcd::codec::Plain).connect_lazy().unwrap();
    let mut served =
        Served::ready(&registrar, |serve| serve.departure(Departure::MarkDraining).propagation_delay(PATIENCE)).await;
    served.stop();
    gone(&world, &served.key()).await;
    assert!(matches!(served.control.state(), ServeState::Leaving), "clients get their time all the same");
    served.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn marking_takes_no_longer_than_leaving_may() {
    let world = World::start().await;
    let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let limit = Duration::from_millis(400);
    let mut served = Served::ready(&registrar, |serve| {
        serve.departure(Departure::MarkDraining).deregister_timeout(limit).propagation_delay(PATIENCE * 10)
    })
    .await;
    world.etcd.freeze();
    served.stop();
    served.end().await.unwrap();
    world.etcd.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_know_one_address_of_two() {
    let world = World::start().await;
    let admin = world.protect("s/10.0.0.1:1").await;
    let options = EtcdOptions::from([world.etcd.endpoint()]).user("user", "userpw");
    let registrar = Registrar::connect_lazy(options).unwrap();
    let mut served = Served::start(&registrar, |serve| {
        serve.advertise("10.0.0.1:1").advertise("10.0.0.2:1").propagation_delay(PATIENCE)
    })
    .await;
    let there = async || {
        let got = admin.kv_client().get("s/10.0.0.1:1", None).await.ok()?;
        Some(!got.kvs().is_empty())
    };
    until("the one that may be put", async || there().await.filter(|there| *there)).await;
    let not_all = served.control.ready(Duration::from_millis(1)).await.unwrap_err();
    assert!(not_all.is_timeout() && !served.control.is_ready());
    served.stop();
    until("it to go", async || there().await.filter(|there| !there)).await;
    assert!(matches!(served.control.state(), ServeState::Leaving), "it serves on");
    served.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handle_tells_what_serving_failed_with() {
    let world = World::start().await;
    let served = Served::start(&registrar(&world), |serve| serve.advertise("0.0.0.0")).await;
    let error = served.control.ready(PATIENCE).await.unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("every interface"), "{error}");
    let control = served.control.clone();
    assert!(served.end().await.unwrap_err().is_invalid_argument());
    assert!(matches!(control.state(), ServeState::Stopped { why: Some(_), .. }));
}

/// Also to who waits while it leaves and answers what it has.
#[tokio::test(flavor = "multi_thread")]
async fn the_handle_tells_why_it_leaves() {
    let world = World::start().await;
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = ready.clone();
    let served = Served::start(&registrar(&world), |serve| {
        serve.describe(|instance| instance.with_weight(0)).ready_when(move || {
            let ready = is_ready.load(Ordering::SeqCst);
            async move { if ready { Ok(()) } else { Err("cold cache") } }
        })
    })
    .await;
    let call = waiting(&served).await;
    ready.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = served.control.ready(PATIENCE).await.unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("weight"), "{error}");
    }
    assert!(!matches!(served.control.state(), ServeState::Stopped { .. }), "the call keeps it");
    served.me.answers.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap(), "at last");
    assert!(served.end().await.unwrap_err().is_invalid_argument());
}
