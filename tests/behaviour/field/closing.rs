//! A registrar that is closed, and one whose runtime ends before.

use std::time::Duration;

use test_support::{Log, Proxy};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic_etcd::{Instance, Registrar, Registration, RegistrationState};

use crate::support::{PATIENCE, World, until};

fn registrar(endpoint: String) -> Registrar {
    Registrar::builder([endpoint]).ttl(Duration::from_secs(60)).connect_lazy().unwrap()
}

async fn ten(registrar: &Registrar) -> Vec<Registration> {
    let mut registrations = Vec::new();
    for port in 1..=10 {
        let service = ["a", "b"][port % 2];
        registrations.push(registrar.register(service, Instance::new(format!("h:{port}")).unwrap()).unwrap());
    }
    for registration in &registrations {
        registration.ready(PATIENCE).await.unwrap();
    }
    registrations
}

/// F64: all registrations leave with their lease, and nothing is taken on any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_that_is_closed_leaves_nothing() {
    let world = World::start().await;
    let registrar = registrar(world.etcd.endpoint());
    let mut registrations = ten(&registrar).await;
    registrations.pop().unwrap().deregister().await.unwrap();
    let clone = registrar.clone();
    registrar.close(PATIENCE).await.unwrap();
    assert!(world.contents("a/").await.is_empty() && world.contents("b/").await.is_empty());
    assert!(world.leases().await.is_empty());
    assert!(registrations.iter().all(|registration| matches!(registration.state(), RegistrationState::Closed)));
    assert!(registrar.lease_id().is_none() && registrar.health().is_live());
    let refused = clone.register("a", Instance::new("h:1").unwrap()).unwrap_err();
    assert!(refused.is_closed(), "{refused:?}");
    clone.close(Duration::ZERO).await.unwrap();
    registrations.pop().unwrap().deregister().await.unwrap();
    // One that has nothing registered, and no etcd.
    self::registrar("http://127.0.0.1:1".into()).close(Duration::ZERO).await.unwrap();
}

/// F64: it is bounded, says what has not left, and goes on; whoever gives up waiting stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn closing_while_etcd_is_away_says_what_stays() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    let registrar = registrar(proxy.endpoint());
    let registrations = ten(&registrar).await;
    proxy.refuse();
    proxy.cut();
    assert!(timeout(Duration::from_millis(50), registrar.close(PATIENCE)).await.is_err());
    assert!(registrar.register("a", Instance::new("h:11").unwrap()).unwrap_err().is_closed());
    let said = until("an error", async || {
        let late = registrar.close(Duration::from_millis(500)).await.unwrap_err();
        assert!(late.is_timeout(), "{late:?}");
        Some(format!("{late:?}")).filter(|said| said.contains("last error"))
    });
    let said = said.await;
    assert!(registrations.iter().all(|it| said.contains(&format!("{}", it.instance().addresses()[0]))), "{said}");
    assert!(said.contains("have not left"), "{said}");
    assert_eq!(world.contents("a/").await.len(), 5);
    proxy.resume();
    registrar.close(PATIENCE).await.unwrap();
    assert!(world.contents("a/").await.is_empty() && world.leases().await.is_empty());
}

/// F64: the same where they were leaving, and etcd was away.
#[test]
fn a_runtime_that_ends_while_a_lease_is_revoked_says_so() {
    let (log, _guard) = Log::begin();
    let outside = Runtime::new().unwrap();
    let world = outside.block_on(World::start());
    let proxy = outside.block_on(async { Proxy::to(world.etcd.address()) });
    let main = Builder::new_current_thread().enable_all().build().unwrap();
    let registrar = registrar(proxy.endpoint());
    main.block_on(async {
        let registrations = ten(&registrar).await;
        proxy.refuse();
        proxy.cut();
        drop(registrations);
        // The task has heard of it: nothing is to stand under the lease any more.
        until("the lease is left", async || registrar.lease_id().is_none().then_some(())).await;
    });
    drop(main);
    assert_eq!(log.warned("runtime ended while a lease was held"), 1, "{}", log.text());
    let error = outside.block_on(registrar.close(PATIENCE)).unwrap_err();
    assert!(error.is_closed() && format!("{error:?}").contains("\"a/h:2\""), "{error:?}");
}

/// F64: a runtime that ends while instances are registered, as where `main` returns: the keys stay, and that is said.
#[test]
fn a_runtime_that_ends_first_leaves_keys_and_says_so() {
    let (log, _guard) = Log::begin();
    let outside = Builder::new_current_thread().enable_all().build().unwrap();
    let world = outside.block_on(World::start());
    let main = Builder::new_current_thread().enable_all().build().unwrap();
    let registrar = registrar(world.etcd.endpoint());
    let registrations = main.block_on(ten(&registrar));
    drop(registrations); // in the background, which ends here
    drop(main);
    assert_eq!(log.warned("runtime ended while a lease was held"), 1, "{}", log.text());
    assert!(log.text().contains("keys=10"), "{}", log.text());
    outside.block_on(async {
        assert_eq!(world.contents("a/").await.len(), 5);
        let error = registrar.close(PATIENCE).await.unwrap_err();
        assert!(error.is_closed() && format!("{error:?}").contains("\"a/h:2\""), "{error:?}");
        // A runtime that ends with nothing registered says nothing.
        let quiet = self::registrar(world.etcd.endpoint());
        let kept = ten_elsewhere(&quiet).await;
        quiet.close(PATIENCE).await.unwrap();
        until("closed", async || matches!(kept[0].state(), RegistrationState::Closed).then_some(())).await;
    });
    assert_eq!(log.warned("runtime ended"), 1, "{}", log.text());
    // The other flavour, whose workers log elsewhere.
    let main = Runtime::new().unwrap();
    let registrar = self::registrar(world.etcd.endpoint());
    let held = main.block_on(async {
        let registration = registrar.register("d", Instance::new("h:1").unwrap()).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        registration
    });
    drop(main);
    let error = outside.block_on(registrar.close(PATIENCE)).unwrap_err();
    assert!(error.is_closed() && format!("{error:?}").contains("\"d/h:1\" stays"), "{error:?}");
    assert!(matches!(held.state(), RegistrationState::Lost { .. }), "{held:?}");
    assert_eq!(outside.block_on(world.contents("d/")).len(), 1);
}

async fn ten_elsewhere(registrar: &Registrar) -> Vec<Registration> {
    let registration = registrar.register("c", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    vec![registration]
}

/// F64: what was registered on another runtime since covers no key that was left behind, unless it has that key.
#[test]
fn what_a_runtime_has_left_behind_is_said_also_after_another_one_was_used() {
    let outside = Runtime::new().unwrap();
    let world = outside.block_on(World::start());
    let registrar = registrar(world.etcd.endpoint());
    let main = Builder::new_current_thread().enable_all().build().unwrap();
    let left = main.block_on(ten(&registrar));
    drop(main);
    outside.block_on(async {
        let again = registrar.register("a", Instance::new("h:2").unwrap()).unwrap();
        again.ready(PATIENCE).await.unwrap();
        let error = registrar.close(PATIENCE).await.unwrap_err();
        assert!(error.is_closed(), "{error:?}");
        let said = format!("{error:?}");
        assert!(said.contains("\"a/h:4\"") && !said.contains("\"a/h:2\""), "{said}");
        let contents = world.contents("a/").await;
        assert!(contents.contains_key("a/h:4") && !contents.contains_key("a/h:2"), "{contents:?}");
    });
    drop(left);
}

/// F64: they are gone with their lease, and then there is nothing to say.
#[test]
fn what_a_runtime_has_left_behind_is_not_said_for_ever() {
    let outside = Runtime::new().unwrap();
    let world = outside.block_on(World::start());
    let registrar = Registrar::builder([world.etcd.endpoint()]).ttl(Duration::from_secs(2)).connect_lazy().unwrap();
    let main = Builder::new_current_thread().enable_all().build().unwrap();
    let left = main.block_on(ten(&registrar));
    drop(main);
    outside.block_on(async {
        until("the lease to end", async || world.contents("a/").await.is_empty().then_some(())).await;
        until("nothing to say", async || registrar.close(PATIENCE).await.ok()).await;
    });
    drop(left);
}
