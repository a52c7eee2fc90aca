//! Whose a key is: repaired where it was tampered with, left where another has it, and changed in place.

use std::time::Duration;

use etcd_client::{EventType, LeaseGrantOptions, PutOptions, WatchOptions};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic_etcd::{Conflict, EtcdOptions, Instance, Registrar, Registration, RegistrationOptions, RegistrationState};

use crate::support::{PATIENCE, World, naming, resolved, servers_are, until};

const TTL: Duration = Duration::from_secs(4);

fn registrar(world: &World) -> Registrar {
    Registrar::builder([world.etcd.endpoint()]).ttl(TTL).connect_lazy().unwrap()
}

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

async fn registered(registrar: &Registrar, instance: Instance) -> Registration {
    let registration = registrar.register("s", instance).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration
}

async fn held(registration: &Registration) {
    until("held", async || matches!(registration.state(), RegistrationState::HeldByOther { .. }).then_some(())).await;
}

/// Waits until the key stands under the registration's lease, with this value.
async fn stands(world: &World, key: &str, value: &str, registration: &Registration) {
    until(&format!("{key} = {value}"), async || {
        let is = world.contents(key).await.get(key).is_some_and(|stored| stored == value);
        (is && world.lease_of(key).await == registration.lease_id()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_deleted_or_overwritten_by_hand_is_put_again() {
    let world = World::start().await;
    let registration = registered(&registrar(&world), at("h:1")).await;
    let lease = registration.lease_id().unwrap();
    world.delete("s/h:1").await;
    stands(&world, "s/h:1", &naming("h:1"), &registration).await;
    world.put("s/h:1", "by hand").await;
    stands(&world, "s/h:1", &naming("h:1"), &registration).await;
    let under_ours = PutOptions::new().with_lease(lease);
    world.admin.kv_client().put("s/h:1", "by hand", Some(under_ours)).await.unwrap();
    stands(&world, "s/h:1", &naming("h:1"), &registration).await;
    assert_eq!(registration.lease_id(), Some(lease), "a lease that lives is never given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_deleted_while_nobody_watches_is_put_again() {
    let world = World::start().await;
    let proxy = test_support::Proxy::to(world.etcd.address());
    let registrar = Registrar::builder([proxy.endpoint()]).ttl(Duration::from_secs(60)).connect_lazy().unwrap();
    let registration = registered(&registrar, at("h:1")).await;
    let lease = registration.lease_id();
    proxy.refuse();
    world.delete("s/h:1").await;
    proxy.resume();
    stands(&world, "s/h:1", &naming("h:1"), &registration).await;
    assert_eq!(registration.lease_id(), lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_arrives_after_its_registration_has_left_is_deleted() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let stays = registered(&registrar, at("h:1")).await;
    let leaves = registered(&registrar, at("h:2")).await;
    leaves.deregister().await.unwrap();
    let late = PutOptions::new().with_lease(stays.lease_id().unwrap());
    world.admin.kv_client().put("s/h:2", naming("h:2"), Some(late)).await.unwrap();
    until("the key to go", async || world.lease_of("s/h:2").await.is_none().then_some(())).await;
    assert!(stays.is_registered());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_last_has_the_key_and_the_other_gets_it_back() {
    let world = World::start().await;
    let first = registered(&registrar(&world), at("h:1")).await;
    let second = registered(&registrar(&world), at("h:1")).await;
    held(&first).await;
    stands(&world, "s/h:1", &naming("h:1"), &second).await;
    let error = first.ready(PATIENCE).await.unwrap_err();
    let lease = format!("{:x}", second.lease_id().unwrap());
    assert!(error.is_conflict() && error.to_string().contains(&lease), "{error}");

    second.deregister().await.unwrap();
    stands(&world, "s/h:1", &naming("h:1"), &first).await;
    first.ready(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_held_leaves_without_touching_the_holder() {
    let world = World::start().await;
    let first = registered(&registrar(&world), at("h:1")).await;
    let second = registered(&registrar(&world), at("h:1")).await;
    held(&first).await;
    first.deregister().await.unwrap();
    assert_eq!(world.lease_of("s/h:1").await, second.lease_id());
    until("the holder's lease alone", async || (world.leases().await.len() == 1).then_some(())).await;
    assert!(second.is_registered());
}

#[test]
fn a_server_that_crashed_takes_its_key_over_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    // Its runtime ends, and nobody says anything to etcd: as in a crash.
    let crashed = tokio::runtime::Runtime::new().unwrap();
    let former = crashed.block_on(async { registered(&registrar(&world), at("h:1")).await });
    let lease = former.lease_id();
    drop(crashed);
    runtime.block_on(async {
        assert_eq!(world.lease_of("s/h:1").await, lease);
        let anew = registered(&registrar(&world), at("h:1")).await;
        assert_eq!(world.lease_of("s/h:1").await, anew.lease_id());
        until("the former lease to end", async || (world.leases().await.len() == 1).then_some(())).await;
        assert_eq!(world.lease_of("s/h:1").await, anew.lease_id(), "it went with nothing");
        assert!(anew.is_registered());
    });
    drop(former);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_key_can_be_refused_to_others_until_it_is_free() {
    let world = World::start().await;
    let register = async |address: &str, id: &str| {
        let options = RegistrationOptions::new().key("primary").conflict(Conflict::Wait);
        registrar(&world).register_with("s", at(address).with_id(id), options).unwrap()
    };
    let first = register("h:1", "a").await;
    first.ready(PATIENCE).await.unwrap();
    let second = register("h:2", "b").await;
    let error = second.ready(PATIENCE).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("\"a\""), "{error}");
    assert_eq!(world.lease_of("s/primary").await, first.lease_id());

    // The same instance, in its next life: at once.
    let reborn = register("h:1", "a").await;
    reborn.ready(PATIENCE).await.unwrap();
    assert_eq!(world.lease_of("s/primary").await, reborn.lease_id());
    held(&first).await;
    first.deregister().await.unwrap();
    reborn.deregister().await.unwrap();
    until("the key is free", async || second.is_registered().then_some(())).await;
    assert_eq!(world.lease_of("s/primary").await, second.lease_id());

    // Deleted by hand, it is put again; put by another in the meantime, it is respected.
    world.delete("s/primary").await;
    until("the key", async || world.lease_of("s/primary").await).await;
    second.ready(PATIENCE).await.unwrap();
    assert_eq!(world.lease_of("s/primary").await, second.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_put_by_hand_is_refused_too_and_taken_when_it_is_deleted() {
    let world = World::start().await;
    world.put("s/primary", &naming("h:9")).await;
    let options = RegistrationOptions::new().key("primary").conflict(Conflict::Wait);
    let registration = registrar(&world).register_with("s", at("h:1"), options).unwrap();
    let error = registration.ready(PATIENCE).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("without a lease"), "{error}");
    world.delete("s/primary").await;
    stands(&world, "s/primary", &naming("h:1"), &registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_made_unique() {
    let world = World::start().await;
    let register = async |id: Option<&str>| {
        let instance = id.into_iter().fold(at("h:1"), Instance::with_id);
        let options = RegistrationOptions::new().conflict(Conflict::UniqueKey);
        let registration = registrar(&world).register_with("s", instance, options).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        registration
    };
    let first = register(None).await;
    let mut second = register(Some("b")).await;
    let third = register(None).await;
    let keys: Vec<_> = world.contents("s/").await.into_keys().collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert_eq!(world.lease_of("s/h:1").await, first.lease_id());
    assert_eq!(world.lease_of("s/h:1/b").await, second.lease_id());
    second.update(|_| at("h:1").with_id("b").with_weight(3)).unwrap();
    second.ready(PATIENCE).await.unwrap();
    assert!(world.contents("s/h:1/b").await["s/h:1/b"].contains("\"weight\":3"));
    second.deregister().await.unwrap();
    third.deregister().await.unwrap();
    assert_eq!(world.contents("s/").await.into_keys().collect::<Vec<_>>(), ["s/h:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_keys_that_cannot_be_are_refused() {
    let world = World::start().await;
    let registrar = registrar(&world);
    for name in ["", "/a", "a/", "a\nb"] {
        let error = registrar.register_with("s", at("h:1"), RegistrationOptions::new().key(name)).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("key"), "{error}");
    }
    let several = at("h:1").with_address("h:2").unwrap();
    let error = registrar.register_with("s", several, RegistrationOptions::new().key("a")).unwrap_err();
    assert!(error.to_string().contains("several"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_says_changes_in_place() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut registration = registered(&registrar, at("h:1")).await;
    let mut other = registered(&registrar, at("h:3")).await;
    let lease = registration.lease_id();
    let options = WatchOptions::new().with_prefix();
    let mut events = world.admin.watch_client().watch("s/", Some(options)).await.unwrap();

    registration.update(|_| at("h:1").with_zone("a").with_weight(7)).unwrap();
    assert!(registration.is_registered(), "it never leaves");
    registration.ready(PATIENCE).await.unwrap();
    let value = r#"{"Op":0,"Addr":"h:1","Metadata":{"weight":7,"zone":"a"}}"#;
    stands(&world, "s/h:1", value, &registration).await;
    assert_eq!(registration.instance().weight(), Some(7));
    registration.update(|_| at("h:2")).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    assert_eq!(world.contents("s/").await.into_keys().collect::<Vec<_>>(), ["s/h:2", "s/h:3"]);
    assert_eq!(registration.lease_id(), lease);

    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = timeout(PATIENCE, events.message()).await.expect("in time").unwrap().expect("open");
        let change = |event: &etcd_client::Event| {
            (event.event_type() == EventType::Put, event.kv().unwrap().key_str().unwrap().to_owned())
        };
        seen.extend(message.events().iter().map(change));
    }
    let order = [(true, "s/h:1"), (true, "s/h:2"), (false, "s/h:1")].map(|(put, key)| (put, key.to_owned()));
    assert_eq!(seen, order, "the new address comes before the old one goes");

    // What is refused changes nothing.
    assert!(other.update(|_| at("h:2")).unwrap_err().is_invalid_argument());
    assert!(other.update(|_| at("0.0.0.0:1")).unwrap_err().is_invalid_argument());
    assert_eq!(other.instance(), &at("h:3"));
    // One and the same is done at once.
    other.update(|_| at("h:3")).unwrap();
    other.ready(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_while_etcd_is_away_stands_when_it_is_back() {
    let world = World::start().await;
    let registrar = Registrar::builder([world.etcd.endpoint()]).ttl(Duration::from_secs(60)).connect_lazy().unwrap();
    let mut registration = registered(&registrar, at("h:1")).await;
    let lease = registration.lease_id();
    world.etcd.kill();
    registration.update(|_| at("h:1").with_weight(7)).unwrap();
    assert!(registration.ready(Duration::from_millis(100)).await.unwrap_err().is_timeout());
    assert!(registration.is_registered(), "as it was");
    world.etcd.start_again();
    registration.ready(PATIENCE).await.unwrap();
    assert!(world.contents("s/").await["s/h:1"].contains("\"weight\":7"));
    assert_eq!(registration.lease_id(), lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_takes_it_out_and_keeps_the_lease() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let registration = registrar.register_with("s", at("h:1"), RegistrationOptions::new().paused(true)).unwrap();
    let mut states = registration.states();
    until("paused", async || matches!(registration.state(), RegistrationState::Paused { .. }).then_some(())).await;
    assert!(world.contents("s/").await.is_empty());
    assert!(registrar.health().is_ready(), "as is wanted");
    registration.resume();
    registration.ready(PATIENCE).await.unwrap();
    let lease = registration.lease_id();

    registration.set_serving(false);
    registration.pause();
    registration.paused(PATIENCE).await.unwrap();
    assert!(world.contents("s/").await.is_empty() && !registration.is_registered());
    until("both reasons", async || {
        let RegistrationState::Paused { why, .. } = registration.state() else { panic!("it is paused") };
        let said = why.to_string();
        (why.is_paused() && said.contains("by hand") && said.contains("serve")).then_some(())
    })
    .await;
    registration.resume();
    registration.set_serving(false);
    assert!(registration.ready(Duration::from_millis(100)).await.unwrap_err().is_timeout(), "it does not serve");
    registration.set_serving(true);
    registration.ready(PATIENCE).await.unwrap();
    assert_eq!(registration.lease_id(), lease);
    registration.pause();
    registration.deregister().await.unwrap();
    assert!(world.contents("s/").await.is_empty());
    // It may have been out before it left: the lease goes by itself then.
    until("no lease", async || world.leases().await.is_empty().then_some(())).await;

    let mut last = None;
    while let Some(state) = timeout(PATIENCE, states.next()).await.expect("in time") {
        last = Some(state);
    }
    assert!(matches!(last, Some(RegistrationState::Closed)), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_what_is_missing_and_why() {
    let world = World::start().await;
    let registrar = registrar(&world);
    assert!(registrar.health().is_ready() && registrar.health().is_live());
    let registration = registered(&registrar, at("h:1")).await;
    assert!(registrar.health().is_ready());
    world.etcd.kill();
    until("not ready", async || (!registrar.health().is_ready()).then_some(())).await;
    let health = registrar.health();
    assert!(health.is_live() && health.missing() == 1, "{health:?}");
    // Refused, or reset where a request was on its way: it says of which member.
    let endpoint = world.etcd.endpoint();
    assert!(health.last_error().is_some_and(|error| error.to_string().contains(&endpoint)), "{health:?}");
    world.etcd.start_again();
    registration.ready(PATIENCE).await.unwrap();
    assert!(registrar.health().is_ready() && registrar.health().last_error().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_draining_is_seen_and_not_called() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut registration = registered(&registrar, at("h:1")).await;
    let _stays = registered(&registrar, at("h:2")).await;
    let resolver = world.resolver();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    let channel = resolution.channel().unwrap();
    let known = || channel.servers().len();
    until("both known", async || (known() == 2).then_some(())).await;
    registration.update(|_| at("h:1").with_draining(true)).unwrap();
    resolved(&resolution, "the mark", |set| set.instances().any(Instance::is_draining)).await;
    until("one left", async || (known() == 1).then_some(())).await;
    assert_eq!(channel.servers()[0].address().to_string(), "h:2");
    let mut changes = resolution.discover();
    let first = timeout(PATIENCE, changes.next()).await.expect("in time").expect("open").unwrap();
    assert!(format!("{first:?}").contains("h:2"), "{first:?}");
    registration.update(|_| at("h:1")).unwrap();
    until("both known", async || (known() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_chosen_by_somebody_else_is_not_revoked() {
    let world = World::start().await;
    let theirs = world.admin.lease_client().grant(60, Some(LeaseGrantOptions::new().with_id(7))).await.unwrap().id();
    let first = registered(&registrar(&world), at("h:1")).await;
    world.admin.kv_client().put("s/h:1", "theirs", Some(PutOptions::new().with_lease(theirs))).await.unwrap();
    held(&first).await;
    first.deregister().await.unwrap();
    assert_eq!(world.lease_of("s/h:1").await, Some(theirs));
    until("their lease alone", async || (world.leases().await == [theirs]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_leaves_at_once_and_holds_up_no_other() {
    let world = World::start().await;
    let admin = world.protect("s/").await;
    let options = EtcdOptions::from([world.etcd.endpoint()]).user("user", "userpw");
    let registrar = Registrar::builder(options).ttl(TTL).connect_lazy().unwrap();
    let stays = registered(&registrar, at("h:1")).await;
    let denied = registrar.register("elsewhere", at("h:1")).unwrap();
    let said = async || denied.state().why().is_some_and(tonic_etcd::Error::is_permission_denied).then_some(());
    until("permission denied", said).await;
    denied.deregister().await.unwrap();
    assert!(stays.is_registered() && !admin.kv_client().get("s/h:1", None).await.unwrap().kvs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_a_pause_or_an_update_and_whoever_waits_waits_for_it() {
    let world = World::start().await;
    let mut registration = registered(&registrar(&world), at("h:1")).await;
    let mut states = registration.states();
    for round in 0..20 {
        registration.pause();
        assert!(registration.ready(Duration::from_millis(1)).await.is_err(), "round {round}");
        registration.paused(PATIENCE).await.unwrap();
        let error = registration.ready(Duration::from_millis(1)).await.unwrap_err();
        assert!(format!("{error:?}").contains("paused by hand"), "{error:?}");
        registration.resume();
        registration.ready(PATIENCE).await.unwrap();
        let (more, fewer) = (at("h:1").with_address(format!("h:{}", 100 + round)).unwrap(), at("h:1"));
        registration.update(|_| more).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        registration.update(|_| fewer).unwrap();
        registration.ready(PATIENCE).await.unwrap();
    }
    registration.deregister().await.unwrap();
    while let Some(state) = timeout(PATIENCE, states.next()).await.expect("in time") {
        assert!(!matches!(state, RegistrationState::Lost { .. }), "{state:?}");
    }
}

/// Whoever waits after an update waits for what it gives, and is not told who has the key that was given up.
#[tokio::test]
async fn an_update_away_from_a_key_that_another_holds_is_waited_for() {
    let world = World::start().await;
    let _holder = registered(&registrar(&world), at("h:1")).await;
    let waiting = registrar(&world).register_with("s", at("h:1"), RegistrationOptions::new().conflict(Conflict::Wait));
    let mut waiting = waiting.unwrap();
    held(&waiting).await;
    waiting.update(|_| Instance::new("h:2")).unwrap();
    waiting.ready(PATIENCE).await.unwrap();
    assert!(world.contents("s/").await.contains_key("s/h:2"));
    waiting.update(|_| Instance::new("h:1")).unwrap();
    assert!(waiting.ready(PATIENCE).await.unwrap_err().is_conflict());
    assert!(world.contents("s/").await.contains_key("s/h:2"), "it stays until what is wanted in its stead stands");
}

/// What is out, as `paused` says, stays out: also after a resume that was taken back at once. The registrar has much to show, so
/// that it often hears the one and shows the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_resumed_and_paused_at_once_is_out_for_good() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut others = Vec::new();
    for port in 2..300 {
        others.push(registrar.register("s", at(&format!("h:{port}"))).unwrap());
    }
    let one = registrar.register_with("one", at("h:1"), RegistrationOptions::new().paused(true)).unwrap();
    for other in &others {
        other.ready(PATIENCE).await.unwrap();
    }
    for round in 0..200_u32 {
        one.paused(PATIENCE).await.unwrap();
        one.resume();
        let (began, spin) = (tokio::time::Instant::now(), Duration::from_micros(7) * (round * 13 % 285));
        while began.elapsed() < spin {
            std::hint::spin_loop();
        }
        one.pause();
        one.paused(PATIENCE).await.unwrap();
        let before = world.revision().await;
        assert!(world.lease_of("one/h:1").await.is_none(), "round {round}");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(world.revision().await, before, "round {round}");
    }
}
