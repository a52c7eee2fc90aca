//! Registering: what is registered stands in etcd while it lives, and nothing else is touched.

use std::time::Duration;

use etcd_client::PutOptions;
use test_support::{Etcd, Proxy};
use tokio::time::timeout;
use tonic_etcd::{Instance, Registrar, Registration, RegistrationOptions, RegistrationState};

use crate::support::{PATIENCE, World, naming, until};

const TTL: Duration = Duration::from_secs(3);

fn registrar(world: &World) -> Registrar {
    Registrar::builder([world.etcd.endpoint()]).ttl(TTL).connect_lazy().unwrap()
}

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

async fn registered(registrar: &Registrar, service: &str, instance: Instance) -> Registration {
    let registration = registrar.register(service, instance).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration
}

async fn gone(world: &World, key: &str) {
    until(&format!("{key} to go"), async || world.lease_of(key).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_stands_under_a_lease_until_it_leaves() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let instance = at("10.0.0.5:1").with_address("[::1]:2").unwrap().with_weight(5).unwrap().with_zone("a");
    let registration = registered(&registrar, "team/greeter", instance).await;
    let contents = world.contents("").await;
    let metadata = r#"{"weight":5,"zone":"a"}"#;
    let value = |address: &str| format!(r#"{{"Op":0,"Addr":"{address}","Metadata":{metadata}}}"#);
    let expected = [("team/greeter/10.0.0.5:1", "10.0.0.5:1"), ("team/greeter/[::1]:2", "[::1]:2")];
    assert_eq!(contents, expected.map(|(key, address)| (key.to_owned(), value(address))).into());

    let lease = registration.lease_id().expect("a lease");
    assert!(lease > 0);
    for (key, _) in expected {
        assert_eq!(world.lease_of(key).await, Some(lease));
    }
    let ttl = world.admin.lease_client().time_to_live(lease, None).await.unwrap();
    assert_eq!(ttl.granted_ttl(), TTL.as_secs().cast_signed());
    // It is renewed more often than it could live without.
    let renewals = || world.etcd.metric("etcd_debugging_lease_renewed_total").expect("etcd counts renewals");
    let enough = renewals() + 4.0;
    until("renewals", async || (renewals() >= enough).then_some(())).await;
    assert_eq!(world.leases().await, [lease]);
    assert!(registration.is_registered());

    registration.deregister().await.unwrap();
    assert!(world.contents("").await.is_empty());
    assert!(world.leases().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_share_a_lease_and_leave_one_by_one() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let first = registered(&registrar, "a", at("h:1")).await;
    let second = registered(&registrar, "a", at("h:2")).await;
    let third = registered(&registrar.clone(), "b", at("h:1")).await;
    assert_eq!(world.leases().await.len(), 1);
    assert_eq!(first.lease_id(), third.lease_id());

    first.deregister().await.unwrap();
    assert_eq!(
        world.contents("").await,
        [("a/h:2", "h:2"), ("b/h:1", "h:1")].map(|(k, a)| (k.into(), naming(a))).into()
    );
    drop(second);
    gone(&world, "a/h:2").await;
    assert_eq!(world.lease_of("b/h:1").await, third.lease_id());
    assert_eq!(world.leases().await.len(), 1);
    drop(third);
    until("the lease to go", async || world.leases().await.is_empty().then_some(())).await;
    // And it can begin anew.
    let again = registered(&registrar, "a", at("h:1")).await;
    assert_eq!(world.lease_of("a/h:1").await, again.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_at_any_moment_leaves_nothing_behind() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let _stays = registered(&registrar, "s", at("h:1")).await;
    for round in 0..40 {
        let leaves = registrar.register("s", at(&format!("h:{}", 100 + round))).unwrap();
        // From before it is tried to after it stands.
        tokio::time::sleep(Duration::from_micros(100 * round)).await;
        leaves.deregister().await.unwrap();
        assert_eq!(world.contents("s/").await.len(), 1, "round {round}");
    }
    let renewals = || world.etcd.metric("etcd_debugging_lease_renewed_total").expect("etcd counts renewals");
    let enough = renewals() + 1.0;
    until("a renewal", async || (renewals() >= enough).then_some(())).await;
    assert_eq!(world.contents("s/").await.len(), 1, "and nothing comes late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn registering_at_any_moment_is_heard() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let register = |port: u64| {
        let registrar = registrar.clone();
        tokio::spawn(async move {
            // At moments of their own, while the others are on their way.
            tokio::time::sleep(Duration::from_micros(port * 37 % 20_000)).await;
            registered(&registrar, "s", at(&format!("h:{port}"))).await
        })
    };
    let registering: Vec<_> = (1..=1_000).map(register).collect();
    let mut registrations = Vec::new();
    for registration in registering {
        registrations.push(registration.await.expect("registered"));
    }
    assert_eq!(world.contents("s/").await.len(), 1_000);
    assert_eq!(world.leases().await.len(), 1);
}

#[test]
fn registering_on_a_runtime_that_has_ended_is_told() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registrar = Registrar::connect_lazy(["http://127.0.0.1:1"]).unwrap();
    let handle = runtime.handle().clone();
    drop(runtime);
    let entered = handle.enter();
    let outside = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut registration = registrar.register("s", at("h:1")).unwrap();
    assert!(matches!(registration.state(), RegistrationState::Lost { .. }));
    drop(entered);
    outside.block_on(async { while registration.changed().await.is_ok() {} });
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_never_touches_what_another_has_put() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let stays = registered(&registrar, "s", at("h:1")).await;
    let taken = registered(&registrar, "s", at("h:2")).await;
    let another = world.admin.lease_client().grant(60, None).await.unwrap().id();
    let put = async |key: &str| {
        let options = PutOptions::new().with_lease(another);
        world.admin.kv_client().put(key, "another's", Some(options)).await.unwrap();
    };
    put("s/h:2").await;
    taken.deregister().await.unwrap();
    assert_eq!(world.contents("s/h:2").await["s/h:2"], "another's");
    put("s/h:1").await;
    stays.deregister().await.unwrap();
    assert_eq!(world.contents("s/h:1").await["s/h:1"], "another's");
    // Where the watch was first to tell of the other, nothing is left to leave, and the lease goes in the background.
    until("its lease alone", async || (world.leases().await == [another]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_revoked_by_hand_is_granted_again() {
    let world = World::start().await;
    let mut registration = registrar(&world).register("s", at("h:1")).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration.changed().await.unwrap();
    let lease = registration.lease_id().unwrap();
    world.admin.lease_client().revoke(lease).await.unwrap();
    let lost = timeout(PATIENCE, registration.changed()).await.expect("in time").unwrap();
    let again = |state: &RegistrationState| matches!(state, RegistrationState::Registered);
    if let RegistrationState::Lost { why, .. } = &lost {
        // The deletion of the key is told first, as a rule.
        assert!(why.to_string().contains("lease") || why.to_string().contains("deleted"), "{why}");
        registration.ready(PATIENCE).await.unwrap();
    } else {
        assert!(again(&lost), "{lost:?}");
    }
    assert_ne!(registration.lease_id(), Some(lease));
    assert_eq!(world.lease_of("s/h:1").await, registration.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_restarts_or_is_wiped_gets_it_again() {
    let world = World::start().await;
    let registration = registered(&registrar(&world), "s", at("h:1")).await;
    let lease = registration.lease_id();
    world.etcd.kill();
    world.etcd.start_again();
    let renewals = || world.etcd.metric("etcd_debugging_lease_renewed_total").expect("etcd counts renewals");
    until("a renewal", async || (renewals() > 0.0).then_some(())).await;
    registration.ready(PATIENCE).await.unwrap();
    assert_eq!(world.lease_of("s/h:1").await, lease, "a lease that lives is never given up");

    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    until("the key", async || world.lease_of("s/h:1").await).await;
    registration.ready(PATIENCE).await.unwrap();
    assert_ne!(registration.lease_id(), lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_lease_is_mended() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    let registrar = Registrar::builder([proxy.endpoint()]).ttl(TTL).connect_lazy().unwrap();
    let mut registration = registrar.register("s", at("h:1")).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    proxy.stall();
    gone(&world, "s/h:1").await;
    while !matches!(registration.state(), RegistrationState::Lost { .. }) {
        timeout(PATIENCE, registration.changed()).await.expect("told in time").unwrap();
    }
    assert!(!registration.is_registered());
    proxy.resume();
    registration.ready(PATIENCE).await.unwrap();
    assert_eq!(world.lease_of("s/h:1").await, registration.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_begins_and_ends_while_etcd_is_away() {
    let etcd = Etcd::start();
    etcd.kill();
    let registrar = Registrar::builder([etcd.endpoint()]).ttl(TTL).connect_lazy().unwrap();
    let registration = registrar.register("s", at("h:1")).unwrap();
    let error = registration.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_timeout());
    assert!(std::error::Error::source(&error).is_some(), "{error:?}");
    assert!(matches!(registration.state(), RegistrationState::Registering { why: Some(_), .. }));
    etcd.start_again();
    registration.ready(PATIENCE).await.unwrap();

    // A lease that would live longer than deregistering is waited for.
    let patient = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let registration = patient.register("s", at("h:3")).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    etcd.kill();
    let error = registration.deregister().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // What never came to etcd leaves without it.
    let never = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    never.register("s", at("h:2")).unwrap().deregister().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_registered_is_refused_with_the_reason() {
    let world = World::start().await;
    let registrar = registrar(&world);
    for (service, address, reason) in [
        ("s", "0.0.0.0:50051", "every interface"),
        ("s", "[::]:50051", "every interface"),
        ("s/", "h:1", "ends in a slash"),
        ("", "h:1", "empty"),
    ] {
        let error = registrar.register(service, at(address)).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains(reason), "{error}");
    }
    assert!(Instance::new("h:0").unwrap_err().to_string().contains("port"));
    let twice = at("h:1").with_address("https://h:1").unwrap_err();
    assert!(twice.is_invalid_argument(), "{twice}");
    let large = at("h:1").with_metadata("note", "x".repeat(2 << 20));
    assert!(registrar.register("s", large).unwrap_err().to_string().contains("etcd takes"));
    for ttl in [Duration::ZERO, Duration::from_secs(10_000_000_000)] {
        assert!(Registrar::builder([world.etcd.endpoint()]).ttl(ttl).connect_lazy().unwrap_err().is_invalid_argument());
    }
    let _held = registered(&registrar, "s", at("h:1")).await;
    let error = registrar.register("s", at("h:1")).unwrap_err();
    assert!(error.to_string().contains("already") && error.to_string().contains("s/h:1"), "{error}");
    assert_eq!(world.contents("").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_that_is_taken_is_one_that_etcd_takes() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let fits = |size: usize| at("h:1").with_metadata("note", "x".repeat(size));
    let overhead = r#"s/h:1s/h:1{"Op":0,"Addr":"h:1","Metadata":{"metadata":{"note":""}}}"#.len();
    let most = 1536 * 1024 - 512 - overhead;
    assert!(registrar.register("s", fits(most + 1)).unwrap_err().is_invalid_argument());
    let registration = registered(&registrar, "s", fits(most)).await;
    registration.deregister().await.unwrap();
}

/// A delete names its key more often than a put does.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_can_be_deleted_however_long_it_is() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let stays = registered(&registrar, "s", at("h:1")).await;
    let error = registrar.register("x".repeat(524_120), at("h:1")).unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("three times"), "{error}");
    let chosen = registrar.register_with("s", at("h:2"), RegistrationOptions::new().key("x".repeat(2_000_000)));
    let error = chosen.unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().len() < 400, "{error}");
    let long = registered(&registrar, &"x".repeat(524_100), at("h:1")).await;
    long.deregister().await.unwrap();
    assert!(world.contents("x").await.is_empty() && stays.is_registered());
}
