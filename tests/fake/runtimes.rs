//! Two runtimes with one resolver or registrar, the first of which ends, or is there and not driven.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::sleep;
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrationState, Resolver};

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
    let resolver = Resolver::connect_lazy([endpoint]).unwrap();
    let kept = first.block_on(async {
        let kept = resolver.resolve("a").unwrap();
        tokio::spawn(async {
            let _slow = Slow;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(300)).await;
        kept
    });
    // Those of the second runtime wait for the search of the first.
    let _waits = second.block_on(async {
        let waits = resolver.resolve("b").unwrap();
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
        let resolver = Resolver::connect_lazy(options).unwrap();
        let kept = first.block_on(async {
            let kept = resolver.resolve("a").unwrap();
            for _ in 0..turns / 2 {
                yield_now().await;
            }
            kept
        });
        drop(first);
        drop(kept);
        waits.push(second.spawn(async move { resolver.resolve("b").unwrap().ready(PATIENCE).await }));
    }
    for (number, wait) in waits.into_iter().enumerate() {
        second.block_on(wait).unwrap().unwrap_or_else(|error| panic!("{number}: {error:?}"));
    }
}

fn undriven() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// How far the first runtime gets before nobody drives it any more: from nothing to a connection, a token, a list and a watch.
const TURNS: [usize; 6] = [0, 1, 2, 4, 8, 2_000];

/// F17: what a runtime has begun that nobody drives any more holds up no other: not the task of the service, nor connecting, the
/// check of a password, a connection or a watch stream.
#[test]
fn a_runtime_that_is_not_driven_holds_up_no_resolve_on_another() {
    let second = Runtime::new().unwrap();
    let fake = second.block_on(Fake::start());
    let mut kept = Vec::new();
    for (turns, with_user) in TURNS.into_iter().flat_map(|turns| [(turns, false), (turns, true)]) {
        let first = undriven();
        let options = EtcdOptions::from([fake.endpoint()]);
        let options = if with_user { options.user("reader", "readerpw") } else { options };
        let resolver = Resolver::connect_lazy(options).unwrap();
        let resolution = first.block_on(async {
            let resolution = resolver.resolve("a").unwrap();
            for _ in 0..turns {
                yield_now().await;
            }
            resolution
        });
        let ready = second.block_on(async { resolver.resolve("a").unwrap().ready(PATIENCE).await });
        ready.unwrap_or_else(|error| panic!("{turns} turns, with a user: {with_user}: {error:?}"));
        kept.push((first, resolution, resolver));
    }
}

/// F17: what was resolved on a runtime that is not driven says so where another one waits for it, and is well once it is driven.
#[test]
fn a_resolution_says_that_its_runtime_is_not_driven() {
    let (first, second) = (undriven(), Runtime::new().unwrap());
    let fake = second.block_on(Fake::start());
    let resolver = Resolver::connect_lazy([fake.endpoint()]).unwrap();
    let resolution = first.block_on(async { resolver.resolve("a") }).unwrap();
    let error = second.block_on(resolution.ready(Duration::from_millis(300))).unwrap_err();
    assert!(error.is_timeout() && format!("{error:?}").contains("did not run"), "{error:?}");
    let driven = first.block_on(resolution.ready(PATIENCE));
    driven.unwrap();
    // A runtime that is driven, and an etcd that is away: that is what is said.
    let away = second.block_on(async {
        let resolver = Resolver::connect_lazy(["http://127.0.0.1:1"]).unwrap();
        resolver.resolve("a").unwrap().ready(Duration::from_secs(1)).await.unwrap_err()
    });
    assert!(!format!("{away:?}").contains("did not run"), "{away:?}");
}

/// F17: a registrar has one task, on the runtime that registered first: who registers on another one is told that it does not
/// run, within the time that was given. Once it is driven, or has ended, all is well.
#[test]
fn a_registration_says_that_the_runtime_of_the_first_is_not_driven() {
    let (first, second) = (undriven(), Runtime::new().unwrap());
    let fake = second.block_on(Fake::start());
    let registrar = Registrar::builder([fake.endpoint()]).connect_lazy().unwrap();
    let at = |port: u16| Instance::new(format!("h:{port}")).unwrap();
    let one = first.block_on(async { registrar.register("s", at(1)) }).unwrap();
    let two = second.block_on(async { registrar.register("s", at(2)) }).unwrap();
    let wait = Duration::from_millis(300);
    let error = second.block_on(two.ready(wait)).unwrap_err();
    assert!(error.is_timeout() && format!("{error:?}").contains("did not run"), "{error:?}");
    first.block_on(two.ready(PATIENCE)).unwrap();
    // Both are put at once, and either may be answered first.
    first.block_on(one.ready(PATIENCE)).unwrap();
    assert!(one.is_registered() && matches!(one.state(), RegistrationState::Registered));
    let error = second.block_on(two.deregister_within(wait)).unwrap_err();
    assert!(format!("{error:?}").contains("did not run"), "{error:?}");
    let error = second.block_on(registrar.clone().close(wait)).unwrap_err();
    assert!(format!("{error:?}").contains("did not run"), "{error:?}");
    first.block_on(registrar.close(PATIENCE)).unwrap();
    // The next one is another's.
    let registrar = Registrar::builder([fake.endpoint()]).connect_lazy().unwrap();
    let three = first.block_on(async { registrar.register("s", at(3)) }).unwrap();
    drop(first);
    let four = second.block_on(async { registrar.register("s", at(4)) }).unwrap();
    second.block_on(four.ready(PATIENCE)).unwrap();
    assert!(matches!(three.state(), RegistrationState::Lost { .. }), "{:?}", three.state());
}
