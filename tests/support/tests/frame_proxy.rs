//! What rules do to the calls and watches of a real etcd: these tests fail where there is none.
#![allow(clippy::disallowed_types)] // real time is meant

mod grpc;

use std::time::{Duration, Instant};

use grpc::{Client, PUT, RANGE, WATCH, contains, put, wait, watch};
use test_support::{Etcd, FrameProxy, Rule};

async fn start() -> (Etcd, FrameProxy, Client) {
    let etcd = Etcd::start();
    let proxy = FrameProxy::to(etcd.address());
    let client = Client::connect(proxy.address()).await;
    (etcd, proxy, client)
}

/// The puts that etcd has seen.
fn started(etcd: &Etcd) -> usize {
    etcd.metric_with("grpc_server_started_total", "grpc_method=\"Put\"").unwrap_or_default() as usize
}

#[tokio::test]
async fn passes_calls_and_watches_and_counts() {
    let (_etcd, proxy, client) = start().await;
    assert_eq!(proxy.endpoint(), format!("http://{}", proxy.address()));
    let mut watch = client.watch("a").await;
    client.put("a", "one").await;
    assert!(client.has("a", "one").await);
    assert!(contains(&watch.next().await.unwrap().unwrap(), "one"));
    assert_eq!((proxy.streams("Put"), proxy.streams("Range"), proxy.streams("Watch")), (1, 1, 1));
    wait("the calls are over", || proxy.open_streams("Put") + proxy.open_streams("Range") == 0).await;
    assert_eq!((proxy.open_streams("Watch"), proxy.streams("Authenticate")), (1, 0));
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
}

#[tokio::test]
async fn passes_an_error_that_has_no_message() {
    let (_etcd, _proxy, client) = start().await;
    let mut call = client.call("/etcdserverpb.KV/NoSuchMethod", b"").await;
    assert_eq!(call.status().await.unwrap(), "12");
}

#[tokio::test]
async fn held_answers_of_a_method_come_in_order_after_clear() {
    let (_etcd, proxy, client) = start().await;
    let mut watch = client.watch("a").await;
    proxy.rule(Rule::hold().method("Watch").responses());
    for value in ["one", "two", "three"] {
        client.put("a", value).await; // other calls pass
    }
    assert!(watch.is_silent().await);
    proxy.clear();
    client.put("a", "four").await;
    for value in ["one", "two", "three", "four"] {
        assert!(contains(&watch.next().await.unwrap().unwrap(), value), "{value}");
    }
}

#[tokio::test]
async fn held_requests_reach_etcd_after_clear() {
    let (etcd, proxy, client) = start().await;
    proxy.rule(Rule::hold().method("Put").requests());
    let mut calls = Vec::new();
    for value in ["one", "two", "three"] {
        calls.push(client.call(PUT, &put("a", value)).await);
    }
    wait("they are held", || proxy.open_streams("Put") == 3).await;
    assert!(!client.has("a", "one").await);
    assert_eq!(started(&etcd), 0, "no stream of them has been opened");
    proxy.clear();
    for call in &mut calls {
        assert!(call.next().await.unwrap().is_some());
    }
    assert_eq!(started(&etcd), 3);
}

#[tokio::test]
async fn a_call_that_is_given_up_while_it_is_held_never_reaches_etcd() {
    let (etcd, proxy, client) = start().await;
    proxy.rule(Rule::hold().method("Put").requests());
    let call = client.call(PUT, &put("a", "late")).await;
    wait("it is there", || proxy.open_streams("Put") == 1).await;
    drop(call);
    wait("it is over", || proxy.open_streams("Put") == 0).await;
    proxy.clear();
    client.put("b", "other").await;
    assert!(!client.has("a", "late").await);
    assert_eq!(started(&etcd), 1);
}

#[tokio::test]
async fn dropped_answers_stay_dropped_though_etcd_has_acted() {
    let (_etcd, proxy, client) = start().await;
    proxy.rule(Rule::drop_all().method("Put").responses());
    let mut lost = client.call(PUT, &put("a", "one")).await;
    while !client.has("a", "one").await {}
    assert!(lost.is_silent().await);
    proxy.clear();
    client.put("a", "two").await;
    assert!(lost.is_silent().await);
    assert_eq!(proxy.open_streams("Put"), 1);
}

#[tokio::test]
async fn a_stream_whose_beginning_was_dropped_goes_on_with_what_passes() {
    let (_etcd, proxy, client) = start().await;
    proxy.rule(Rule::drop_all().method("Watch"));
    let mut call = client.open(WATCH).await;
    call.sink.send_data(grpc::framed(&watch("a")), false).unwrap();
    assert!(call.is_silent().await);
    proxy.clear();
    call.sink.send_data(grpc::framed(&watch("b")), false).unwrap();
    assert!(call.next().await.unwrap().is_some(), "the second watch is confirmed");
    client.put("a", "nobody watches").await;
    client.put("b", "somebody watches").await;
    assert!(contains(&call.next().await.unwrap().unwrap(), "somebody"));
}

#[tokio::test]
async fn a_rule_about_bytes_acts_on_messages_alone() {
    let (_etcd, proxy, client) = start().await;
    let mut watch = client.watch("a").await;
    proxy.rule(Rule::drop_all().method("Watch").responses().containing("secret"));
    for value in ["one", "a secret", "two"] {
        client.put("a", value).await;
    }
    assert!(contains(&watch.next().await.unwrap().unwrap(), "one"));
    assert!(contains(&watch.next().await.unwrap().unwrap(), "two"));
}

#[tokio::test]
async fn a_rule_about_open_streams_leaves_new_ones_alone() {
    let (_etcd, proxy, client) = start().await;
    let mut old = client.watch("a").await;
    proxy.rule(Rule::hold().method("Watch").open_now());
    let mut new = client.watch("a").await;
    client.put("a", "one").await;
    assert!(contains(&new.next().await.unwrap().unwrap(), "one"));
    assert!(old.is_silent().await);
    proxy.clear();
    assert!(contains(&old.next().await.unwrap().unwrap(), "one"));
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let (_etcd, proxy, client) = start().await;
    proxy.rule(Rule::delay(Duration::ZERO).method("Put"));
    proxy.rule(Rule::drop_all().method("Put"));
    client.put("a", "one").await;
}

#[tokio::test]
async fn a_delay_lets_messages_follow_each_other() {
    const DELAY: Duration = Duration::from_millis(200);
    let (etcd, proxy, client) = start().await;
    proxy.rule(Rule::delay(DELAY));
    let start = Instant::now();
    let mut watch = client.watch("a").await;
    assert!(start.elapsed() >= 2 * DELAY, "there and back");
    let direct = Client::connect(etcd.address()).await;
    let start = Instant::now();
    for number in 0..20 {
        direct.put("a", &format!("value {number}.")).await;
    }
    let mut text = Vec::new();
    for number in 0..20 {
        let wanted = format!("value {number}.");
        if !contains(&text, &wanted) {
            text = watch.next().await.unwrap().unwrap().to_vec();
        }
        assert!(contains(&text, &wanted), "{wanted}");
    }
    assert!(start.elapsed() >= DELAY && start.elapsed() < 20 * DELAY, "{:?}", start.elapsed());
    let start = Instant::now();
    assert!(client.has("a", "value 19.").await);
    assert!(start.elapsed() >= 2 * DELAY);
    let mut late = client.call(RANGE, &put("a", "b")).await;
    proxy.clear();
    assert!(late.next().await.unwrap().is_some());
}

#[tokio::test]
async fn a_watch_that_is_given_up_ends_at_etcd() {
    let (etcd, proxy, client) = start().await;
    let watch = client.watch("a").await;
    assert_eq!(etcd.metric("etcd_debugging_mvcc_watcher_total"), Some(1.0));
    drop(watch);
    wait("etcd has no watcher", || etcd.metric("etcd_debugging_mvcc_watcher_total") == Some(0.0)).await;
    assert_eq!(proxy.open_streams("Watch"), 0);
}

#[tokio::test]
async fn an_etcd_that_is_killed_takes_the_connections_with_it() {
    let (etcd, proxy, client) = start().await;
    let mut watch = client.watch("a").await;
    etcd.kill();
    assert!(watch.next().await.is_err());
    let _ = grpc::within("the end of the connection", client.connection).await;
    wait("the proxy has forgotten it", || proxy.open_connections() + proxy.open_streams("Watch") == 0).await;
    etcd.start_again();
    Client::connect(proxy.address()).await.put("a", "one").await;
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn tells_which_requests_went_on_after_they_waited() {
    let (etcd, proxy, client) = start().await;
    proxy.rule(Rule::delay(Duration::from_millis(100)).requests().containing("slow"));
    client.put("quick", "1").await;
    client.put("slow", "1").await;
    client.put("slow", "2").await;
    let late = proxy.late();
    assert_eq!(late.len(), 2);
    assert!(late.iter().all(|late| contains(&late.message, "slow")) && late[0].at < late[1].at);
    assert_eq!(started(&etcd), 3);
    proxy.clear();
    proxy.rule(Rule::hold().requests().containing("held"));
    let _held = client.call(PUT, &put("held", "1")).await;
    wait("it is held", || proxy.open_streams("Put") == 1).await;
    client.put("quick", "2").await;
    assert_eq!(proxy.late().len(), 2);
    proxy.clear();
    wait("it goes on", || proxy.late().len() == 3).await;
}
