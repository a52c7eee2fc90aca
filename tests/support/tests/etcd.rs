//! Against a real etcd: these tests fail where there is none.
#![allow(clippy::disallowed_types)] // real time is meant

use std::net::TcpListener;
use std::time::{Duration, Instant};

use test_support::{Cluster, Etcd, Proxy};

fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn starts_and_tells_about_itself() {
    let etcd = Etcd::start();
    assert!(etcd.health() && etcd.is_running());
    assert!(etcd.version().starts_with("3."), "{}", etcd.version());
    assert_eq!(etcd.endpoint(), format!("http://{}", etcd.address()));
    assert_eq!(etcd.metric("etcd_server_has_leader"), Some(1.0));
    assert!(etcd.metric("process_start_time_seconds").is_some());
    assert_eq!(etcd.metric("no_such_metric"), None);
    assert!(etcd.metric_with("etcd_server_version", "server_version=\"3.").is_some());
    assert_eq!(etcd.metric_with("etcd_server_version", "server_version=\"2."), None);
}

#[test]
fn comes_back_with_its_data_after_a_kill_and_without_after_a_wipe() {
    let etcd = Etcd::start();
    let revisions = || etcd.metric("etcd_server_proposals_committed_total").unwrap();
    let before = revisions();
    let (pid, endpoint) = (etcd.pid(), etcd.endpoint());
    etcd.kill();
    assert!(!etcd.health() && etcd.pid().is_none() && !etcd.is_running());
    assert_eq!(etcd.metric("etcd_server_has_leader"), None);
    etcd.kill(); // once more changes nothing
    etcd.start_again();
    assert_ne!(etcd.pid(), pid);
    assert_eq!(etcd.endpoint(), endpoint);
    assert!(revisions() > before, "its log was replayed");
    etcd.terminate();
    etcd.wipe();
    etcd.start_again_nowait();
    wait("healthy again", || etcd.health());
    assert!(revisions() <= before, "all is forgotten");
}

#[test]
fn comes_back_as_it_was_saved() {
    let etcd = Etcd::start();
    let revisions = || etcd.metric("etcd_server_proposals_committed_total").unwrap();
    etcd.kill();
    etcd.save();
    let mut before = 0.0;
    for _ in 0..3 {
        etcd.start_again(); // each start is written to the log
        before = revisions();
        etcd.kill();
    }
    etcd.restore();
    etcd.start_again();
    assert!(revisions() < before, "the last starts are forgotten");
}

#[test]
fn freeze_and_thaw() {
    let etcd = Etcd::start();
    etcd.freeze();
    assert!(etcd.is_running() && !etcd.health(), "frozen at once, and alive");
    etcd.thaw();
    wait("healthy again", || etcd.health());
    etcd.freeze();
    etcd.terminate(); // also ends a frozen one
    assert!(!etcd.is_running());
}

#[test]
fn default_pace_and_arguments() {
    let etcd = Etcd::builder().fast(false).arg("--max-request-bytes=1000").start();
    assert!(etcd.health());
    let error = Etcd::builder().arg("--no-such-flag").try_start().unwrap_err().to_string();
    assert!(error.contains("no-such-flag"), "{error}");
}

#[test]
fn a_foreign_listener_on_its_port_is_noticed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Etcd::builder().port(port).try_start().unwrap_err().to_string();
    assert!(error.contains("address already in use"), "{error}");

    let other = Etcd::start();
    let error = Etcd::builder().port(other.address().port()).try_start().unwrap_err().to_string();
    assert!(error.contains("address already in use"), "{error}");
}

#[test]
fn drop_ends_the_process() {
    let etcd = Etcd::start();
    let address = etcd.address();
    drop(etcd);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_missing_binary_is_named() {
    let error = Etcd::builder().binary("/no/such/etcd").try_start().unwrap_err().to_string();
    assert!(error.contains("/no/such/etcd"), "{error}");
}

#[test]
fn works_through_a_proxy() {
    let etcd = Etcd::start();
    let proxy = Proxy::to(etcd.address());
    assert!(std::net::TcpStream::connect(proxy.address()).is_ok());
    wait("it is counted", || proxy.connections() == 1);
}

#[test]
fn cluster_outlives_its_leader() {
    let cluster = Cluster::start(3);
    assert_eq!(cluster.endpoints().len(), 3);
    let leader = cluster.leader();
    cluster.member(leader).kill();
    let next = cluster.leader();
    assert_ne!(next, leader);
    cluster.member(leader).start_again();
    assert!(cluster.members().iter().all(Etcd::health));
}
