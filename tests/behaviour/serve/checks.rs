//! Checks of the user's: may it be registered, and may it stay?

use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tonic_etcd::ServeState;

use super::{Served, gone, greet, registrar, there, waiting};
use crate::support::{PATIENCE, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_becomes_ready_is_never_registered() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let before = world.revision().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let ready = asked.clone();
    let mut served = Served::start(&registrar, |serve| {
        serve.ready_when(move || {
            let time = ready.fetch_add(1, Ordering::SeqCst);
            async move { Err::<(), _>(Error::other(format!("cold cache, {time}"))) }
        })
    })
    .await;
    until("some checks", async || (asked.load(Ordering::SeqCst) > 3).then_some(())).await;
    assert_eq!(greet(&mut served.client().await, "you").await.unwrap(), "Hello you", "it serves all the same");
    let error = served.control.ready(Duration::from_millis(1)).await.unwrap_err();
    assert!(error.is_timeout() && format!("{error:?}").contains("cold cache"), "{error:?}");
    assert!(!served.control.is_ready());
    served.stop();
    served.end().await.unwrap();
    assert_eq!(world.revision().await, before, "nothing was ever put");
    assert!(world.leases().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_registered_once_its_check_passes() {
    let world = World::start().await;
    let warm = Arc::new(AtomicBool::new(false));
    let is_warm = warm.clone();
    let served = Served::start(&registrar(&world), |serve| {
        serve.ready_when(move || {
            let warm = is_warm.load(Ordering::SeqCst);
            async move { if warm { Ok(()) } else { Err("cold cache") } }
        })
    })
    .await;
    served.reaches("the reason", |state| matches!(state, ServeState::Starting { why: Some(_), .. })).await;
    assert!(world.contents("").await.is_empty());
    warm.store(true, Ordering::SeqCst);
    served.control.ready(PATIENCE).await.unwrap();
    assert!(world.lease_of(&served.key()).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_leaves_the_directory_while_it_is_not_healthy() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let healthy = Arc::new(AtomicBool::new(true));
    let (is_healthy, asked) = (healthy.clone(), Arc::new(AtomicUsize::new(0)));
    let asks = asked.clone();
    let served = Served::ready(&registrar, |serve| {
        serve.propagation_delay(Duration::ZERO).healthy_when(Duration::from_millis(10), move || {
            asks.fetch_add(1, Ordering::SeqCst);
            let healthy = is_healthy.load(Ordering::SeqCst);
            async move { if healthy { Ok(()) } else { Err("its database is away") } }
        })
    })
    .await;
    let lease = registrar.lease_id();
    for _ in 0..3 {
        healthy.store(false, Ordering::SeqCst);
        gone(&world, &served.key()).await;
        healthy.store(true, Ordering::SeqCst);
        there(&world, &served.key()).await;
    }
    assert_eq!(registrar.lease_id(), lease);
    // Two reasons are two: it stays away for the other.
    served.control.pause();
    gone(&world, &served.key()).await;
    healthy.store(false, Ordering::SeqCst);
    let before = asked.load(Ordering::SeqCst);
    until("two more checks", async || (asked.load(Ordering::SeqCst) > before + 2).then_some(())).await;
    served.control.resume();
    let not_ready = served.control.ready(Duration::from_millis(200)).await.unwrap_err();
    assert!(not_ready.is_timeout() && world.lease_of(&served.key()).await.is_none());
    healthy.store(true, Ordering::SeqCst);
    there(&world, &served.key()).await;
    served.control.stop();
    served.end().await.unwrap();
}

/// F63: a check that panics has failed. The server serves on, out of the directory, until the check passes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_panics_has_failed() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let (panics, asked) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(0)));
    let (starts, fails, asks) = (panics.clone(), panics.clone(), asked.clone());
    // It panics when it is asked, or later.
    let panic = |when: &AtomicUsize, now: usize| assert_ne!(when.load(Ordering::SeqCst), now, "asked for");
    let served = Served::start(&registrar, |serve| {
        serve
            .propagation_delay(Duration::ZERO)
            .ready_when(move || {
                panic(&starts, 1);
                async { Ok::<_, Error>(()) }
            })
            .healthy_when(Duration::from_millis(10), move || {
                asks.fetch_add(1, Ordering::SeqCst);
                panic(&fails, 2);
                let fails = fails.clone();
                async move {
                    tokio::task::yield_now().await;
                    panic(&fails, 3);
                    Ok::<_, Error>(())
                }
            })
    })
    .await;
    let reason = |state: &ServeState| match state {
        ServeState::Starting { why: Some(why), .. } => format!("{why:?}").contains("it panicked"),
        _ => false,
    };
    served.reaches("the reason", reason).await;
    panics.store(0, Ordering::SeqCst);
    served.control.ready(PATIENCE).await.unwrap();
    let (lease, call) = (registrar.lease_id(), waiting(&served).await);
    for when in [2, 3] {
        panics.store(when, Ordering::SeqCst);
        gone(&world, &served.key()).await;
        let before = asked.load(Ordering::SeqCst);
        until("three more checks", async || (asked.load(Ordering::SeqCst) > before + 3).then_some(())).await;
        assert!(matches!(served.control.state(), ServeState::Serving) && !served.control.is_ready());
        panics.store(0, Ordering::SeqCst);
        there(&world, &served.key()).await;
    }
    assert_eq!(registrar.lease_id(), lease);
    served.me.answers.add_permits(1);
    assert_eq!(timeout(PATIENCE, call).await.unwrap().unwrap().unwrap(), "at last", "calls in flight go on");
    served.control.stop();
    served.end().await.unwrap();
}

/// What has passed is no reason any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_goes_with_its_check() {
    let world = World::start().await;
    let (asked, healthy) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let begun = healthy.clone();
    let served = Served::start(&registrar(&world), |serve| {
        let ready = move || {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if is_first { Err("cold cache") } else { Ok(()) } }
        };
        serve.ready_when(ready).healthy_when(Duration::from_secs(1), move || {
            begun.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<(), Error>>()
        })
    })
    .await;
    until("the health check", async || (healthy.load(Ordering::SeqCst) > 0).then_some(())).await;
    let error = served.control.ready(Duration::from_millis(1)).await.unwrap_err();
    assert!(error.is_timeout() && !format!("{error:?}").contains("cold cache"), "{error:?}");
    served.control.stop();
    served.end().await.unwrap();
}
