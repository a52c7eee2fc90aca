//! Two runtimes with one resolver, the first of which ends.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::sleep;
use tonic_etcd::{EtcdOptions, Resolver};

use crate::server::Fake;
use crate::support::{PATIENCE, until};

/// What is slow to be dropped with its runtime.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(Duration::from_secs(1));
    }
}

/// It ends while it connects: the other one takes over.
#[test]
fn a_runtime_that_ends_while_it_connects_holds_up_no_other() {
    // It accepts, and says nothing until it is told to.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let first = Builder::new_current_thread().enable_all().build().unwrap();
    let second = Runtime::new().unwrap();
    let resolver = first.block_on(Resolver::connect([endpoint])).unwrap();
    let kept = first.block_on(async {
        let kept = resolver.resolve("a").await.unwrap();
        tokio::spawn(async {
            let _slow = Slow;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(300)).await;
        kept
    });
    // Those of the second runtime wait for the search of the first.
    let _waits = second.block_on(async {
        let waits = resolver.resolve("b").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        waits
    });
    drop(first);
    drop(kept);
    // From now on what it accepts is closed: each attempt fails at once.
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(connection);
        }
    });
    second.block_on(until("further attempts", || attempts.load(Ordering::Relaxed) >= 10));
}

/// It ends before what it has begun had its first turn.
#[test]
fn a_runtime_that_ends_at_once_holds_up_no_other() {
    let second = Runtime::new().unwrap();
    let fake = second.block_on(Fake::start());
    let mut waits = Vec::new();
    for turns in 0..16 {
        let first = Builder::new_current_thread().event_interval(1).enable_all().build().unwrap();
        let options = EtcdOptions::from([fake.endpoint()]);
        let options = if turns % 2 == 0 { options } else { options.user("reader", "readerpw") };
        let resolver = first.block_on(Resolver::connect(options)).unwrap();
        let kept = first.block_on(async {
            let kept = resolver.resolve("a").await.unwrap();
            for _ in 0..turns / 2 {
                yield_now().await;
            }
            kept
        });
        drop(first);
        drop(kept);
        waits.push(second.spawn(async move { resolver.resolve("b").await.unwrap().ready(PATIENCE).await }));
    }
    for (number, wait) in waits.into_iter().enumerate() {
        second.block_on(wait).unwrap().unwrap_or_else(|error| panic!("{number}: {error:?}"));
    }
}
