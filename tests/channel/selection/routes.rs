//! Calls that are routed by the values that servers carry.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tonic::Code;
use tonic_etcd::{BalancedChannel, Instance, Route, SelectionReason, ServerState, Split, WaitForReady};

use super::{call_with, calls, greeters, put, status_of};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, ready, repeating, states, until};

fn blue(instance: Instance) -> Instance {
    instance.with_metadata("lane", "blue")
}

#[tokio::test]
async fn a_call_goes_to_the_servers_of_its_route_and_one_without_never_to_a_canary() {
    let peers = greeters(4).await;
    let (channel, set) = changing(builder().route_key("lane").route_header("lane", "x-lane"));
    put(&set, &peers[0], blue);
    put(&set, &peers[1], blue);
    put(&set, &peers[2], |instance| instance);
    put(&set, &peers[3], |instance| instance.with_metadata("lane", "green"));
    ready(&channel, 4).await;
    for _ in 0..20 {
        call_with(&channel, Route::to("lane", "blue")).await.unwrap();
        greet(&channel).await.unwrap();
    }
    let counts = calls(&peers);
    assert_eq!((counts[0] + counts[1], counts[2], counts[3]), (20, 20, 0));
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
    request.metadata_mut().insert("x-lane", "green".parse().unwrap());
    greeter_proto::greeter_client::GreeterClient::new(channel.clone()).say_hello(request).await.unwrap();
    assert_eq!(calls(&peers)[3], 1);
    let routes: Vec<_> = peers.iter().map(|peer| status_of(&channel, peer).route().map(str::to_owned)).collect();
    let expected = [Some(r#"lane="blue""#), Some(r#"lane="blue""#), None, Some(r#"lane="green""#)];
    assert_eq!(routes.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_strict_route_without_servers_fails_with_key_and_value_and_another_falls_back() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane").wait_limit(Duration::from_millis(300)));
    // Nothing is known yet: the call waits.
    let status = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert!(status.message().contains("not resolved yet"), "{status}");
    put(&set, &peers[0], |instance| instance);
    ready(&channel, 1).await;
    let status = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(r#"no server of "greeter" with lane="blue": none is registered"#), "{status}");
    let server = call_with(&channel, Route::to("lane", "blue").or_default()).await.unwrap();
    assert_eq!(server, peers[0].address.to_string());
    let status = call_with(&channel, Route::to("lame", "blue")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    // It comes and goes.
    put(&set, &peers[1], blue);
    ready(&channel, 2).await;
    assert_eq!(call_with(&channel, Route::to("lane", "blue")).await.unwrap(), peers[1].address.to_string());
    set.remove(&peers[1].address);
    until("it to go", || states(&channel).len() == 1).await;
    let status = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert!(status.message().contains(r#"with lane="blue": none is registered"#), "{status}");
    assert_eq!(greeted_by(&channel).await, peers[0].address.to_string());
}

#[tokio::test]
async fn a_call_that_may_falls_back_while_the_servers_of_its_route_fail() {
    let canary = Peer::start(Script::Break).await;
    let stable = greeters(1).await;
    let (channel, set) = changing(repeating().route_key("lane"));
    put(&set, &canary, blue);
    put(&set, &stable[0], |instance| instance);
    ready(&channel, 2).await;
    // It breaks each connection: the call is repeated at a default server.
    for _ in 0..5 {
        let server = call_with(&channel, Route::to("lane", "blue").or_default()).await.unwrap();
        assert_eq!(server, stable[0].address.to_string());
    }
    assert!(canary.seen.calls() > 0);
    let address = canary.address;
    drop(canary);
    until("it to be gone", || states(&channel)[&address.to_string()] != ServerState::Ready).await;
    for _ in 0..5 {
        call_with(&channel, Route::to("lane", "blue").or_default()).await.unwrap();
    }
    let status = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert!(status.message().contains(r#"with lane="blue""#), "{status}");
}

#[tokio::test]
async fn a_call_that_waits_for_ready_gets_the_first_server_of_its_route_and_again_after_those_were_gone() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[0], |instance| instance);
    ready(&channel, 1).await;
    for _ in 0..3 {
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move {
                let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
                request.extensions_mut().insert(Route::to("lane", "blue"));
                request.extensions_mut().insert(WaitForReady(true));
                greeter_proto::greeter_client::GreeterClient::new(channel).say_hello(request).await.map(drop)
            }
        });
        sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        let before = peers[1].seen.calls();
        put(&set, &peers[1], blue);
        waiting.await.unwrap().unwrap();
        assert_eq!(peers[1].seen.calls(), before + 1);
        set.remove(&peers[1].address);
        until("it to go", || states(&channel).len() == 1).await;
    }
}

/// The calls of one route wait for its servers alone, and hold up nobody else.
#[tokio::test]
async fn calls_that_wait_for_one_route_hold_up_no_other() {
    let end = Arc::new(Notify::new());
    let full = Peer::limited(Script::GreetLater(end.clone()), Some(1)).await;
    let stable = greeters(1).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &full, blue);
    put(&set, &stable[0], |instance| instance);
    ready(&channel, 2).await;
    let call = |channel: &BalancedChannel| {
        let channel = channel.clone();
        tokio::spawn(async move { call_with(&channel, Route::to("lane", "blue")).await })
    };
    let calls: Vec<_> = (0..3).map(|_| call(&channel)).collect();
    until("the first to arrive", || full.seen.calls() == 1).await;
    sleep(Duration::from_millis(50)).await;
    for _ in 0..20 {
        greet(&channel).await.unwrap();
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    for waiting in calls {
        until("the next to arrive", || {
            end.notify_waiters();
            waiting.is_finished()
        })
        .await;
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(full.seen.calls(), 3);
}

#[tokio::test]
async fn a_server_that_changes_its_value_keeps_its_connection_and_serves_other_calls() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[0], |instance| instance);
    put(&set, &peers[1], |instance| instance);
    ready(&channel, 2).await;
    put(&set, &peers[1], blue);
    until("the value to be seen", || status_of(&channel, &peers[1]).route().is_some()).await;
    for _ in 0..10 {
        assert_eq!(call_with(&channel, Route::to("lane", "blue")).await.unwrap(), peers[1].address.to_string());
        assert_eq!(greeted_by(&channel).await, peers[0].address.to_string());
    }
    put(&set, &peers[1], |instance| instance.with_metadata("lane", "green"));
    until("the value to be seen", || status_of(&channel, &peers[1]).route() == Some(r#"lane="green""#)).await;
    call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    call_with(&channel, Route::to("lane", "green")).await.unwrap();
    assert_eq!(peers[1].seen.connections(), 1);
}

#[tokio::test]
async fn sixteen_values_are_connected_and_what_is_beyond_is_shown() {
    let peers = greeters(18).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[0], |instance| instance);
    for (number, peer) in peers.iter().enumerate().skip(1) {
        put(&set, peer, |instance| instance.with_metadata("lane", format!("{number:02}")));
    }
    ready(&channel, 17).await;
    until("all to be listed", || channel.servers().len() == 18).await;
    let beyond: Vec<_> =
        channel.servers().iter().filter(|s| s.selection() == SelectionReason::BeyondRouteValues).cloned().collect();
    assert_eq!(beyond.len(), 1);
    assert_eq!(beyond[0].state(), ServerState::Idle);
    greet(&channel).await.unwrap();
}

#[tokio::test]
async fn a_split_sends_its_share_and_more_than_all_is_refused() {
    let peers = greeters(2).await;
    let split = Split::new("version").to("2", 50);
    let (channel, set) = changing(builder().route_key("version").split(split));
    put(&set, &peers[0], |instance| instance);
    put(&set, &peers[1], |instance| instance.with_version("2"));
    ready(&channel, 2).await;
    for _ in 0..400 {
        greet(&channel).await.unwrap();
    }
    let counts = calls(&peers);
    assert!((130..270).contains(&counts[0]), "{counts:?}");
    let split = Split::new("version").to("2", 60).to("3", 41);
    let refused = builder().route_key("version").split(split);
    let none = tokio_stream::empty::<Result<tower::discover::Change<u8, Instance>, std::convert::Infallible>>();
    assert!(refused.build_with_discovery("greeter", none).unwrap_err().is_invalid_argument());
}

/// What calls are told of a route beyond the 16, also if they wait for ready.
#[tokio::test]
async fn a_strict_call_is_told_that_its_route_is_beyond_those_that_are_connected() {
    let peers = greeters(17).await;
    let (channel, set) = changing(builder().route_key("lane"));
    for (number, peer) in peers.iter().enumerate() {
        put(&set, peer, |instance| instance.with_metadata("lane", format!("{number:02}")));
    }
    ready(&channel, 16).await;
    until("all to be listed", || channel.servers().len() == 17).await;
    let servers = channel.servers();
    let beyond = servers.iter().find(|server| server.selection() == SelectionReason::BeyondRouteValues).unwrap();
    let number = peers.iter().position(|peer| peer.address.to_string() == beyond.address().to_string()).unwrap();
    assert_eq!(beyond.route(), Some(&*format!("lane=\"{number:02}\"")));
    let status = call_with(&channel, Route::to("lane", format!("{number:02}"))).await.unwrap_err();
    let expected = format!("lane=\"{number:02}\": 1 registered, but beyond the 16 values that are connected");
    assert!(status.message().contains(&expected), "{status}");
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("none is registered"), "nobody who serves calls without a route: {status}");
}

#[tokio::test]
async fn draining_servers_count_for_their_own_route() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[0], blue);
    ready(&channel, 1).await;
    put(&set, &peers[0], |instance| blue(instance).with_draining(true));
    until("it to drain", || states(&channel).is_empty()).await;
    let draining = "1 registered, all draining";
    let strict = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert!(strict.message().contains(&format!("lane=\"blue\": {draining}")), "{strict}");
    let plain = greet(&channel).await.unwrap_err();
    assert!(!plain.message().contains("draining"), "{plain}");
    // One that has drained from the start, and one of the default servers.
    put(&set, &peers[1], |instance| instance.with_metadata("lane", "green").with_draining(true));
    put(&set, &peers[0], |instance| instance.with_draining(true));
    let told = async |lane: Option<&str>| match lane {
        Some(lane) => call_with(&channel, Route::to("lane", lane)).await.unwrap_err(),
        None => greet(&channel).await.unwrap_err(),
    };
    for (lane, expected) in [(Some("green"), draining), (None, draining), (Some("blue"), "none is registered")] {
        let mut status = told(lane).await;
        for _ in 0..200 {
            if status.message().contains(expected) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
            status = told(lane).await;
        }
        assert!(status.message().contains(expected), "{lane:?}: {status}");
    }
}
