//! What a record may say: addresses, weights, names below each other, and what is logged of it.

use test_support::Log;
use tokio::runtime::Builder;
use tonic_etcd::{Conflict, Instance, Registrar, RegistrationOptions, Resolver};
use tracing::Level;

use crate::support::{PATIENCE, World, naming, resolved, servers_are, until};

/// F21: records that nobody can call are unreadable, with the reason; loopback is not among them, nor is what is beside.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_interface_are_not_called() {
    let world = World::start().await;
    let refused =
        ["0.0.0.0:50051", "[::]:1", "[::ffff:0.0.0.0]:1", "0x0:1", "0:1", "000.0.0.0:1", "224.0.0.1:1", "[ff02::1]:1"];
    for (number, address) in refused.iter().enumerate() {
        world.put(&format!("s/plain-{number}"), address).await;
        world.put(&format!("s/naming-{number}"), &naming(address)).await;
    }
    world.put("s/unix", "unix:/run/docker.sock").await;
    world.put("s/v4", "127.0.0.1:1").await;
    world.put("s/v6", &naming("[::1]:1")).await;
    let resolution = world.resolver().resolve("s").unwrap();
    servers_are(&resolution, &["127.0.0.1:1", "[::1]:1"]).await;
    let snapshot = resolution.snapshot();
    assert_eq!(snapshot.unreadable(), 2 * refused.len() + 1);
    let why = |key: &str| snapshot.get(key.as_bytes()).unwrap().error().unwrap().to_string();
    assert!(why("s/naming-0").contains("every interface, which nobody can call"), "{}", why("s/naming-0"));
    assert!(why("s/plain-6").contains("multicast"), "{}", why("s/plain-6"));
    assert!(why("s/unix").contains("ResolverBuilder::unix_sockets"), "{}", why("s/unix"));
    let resolver = Resolver::builder([world.etcd.endpoint()]).unix_sockets(true).connect_lazy().unwrap();
    servers_are(&resolver.resolve("s").unwrap(), &["127.0.0.1:1", "[::1]:1", "unix:/run/docker.sock"]).await;
}

/// F21: nor can they be registered.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_nobody_can_call_are_not_registered() {
    let world = World::start().await;
    let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let mut good = registrar.register("s", Instance::new("127.0.0.1:1").unwrap()).unwrap();
    for address in [
        "0.0.0.0:50051",
        "https://[::]:1",
        "[::ffff:0.0.0.0]:1",
        "0x0.0:1",
        "224.0.0.1:1",
        "[ff02::1]:1",
        "255.255.255.255:1",
    ] {
        let error = registrar.register("s", Instance::new(address).unwrap()).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("that clients reach"), "{error}");
        assert!(good.update(|instance| instance.with_address(address)).is_err(), "{address}");
    }
    good.ready(PATIENCE).await.unwrap();
    assert_eq!(world.contents("s/").await.len(), 1);
}

/// F24: a weight of 0 is refused wherever it is said, with the advice to say `draining`; a foreign 0 says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_weight_of_zero_is_refused_and_a_foreign_one_says_nothing() {
    let world = World::start().await;
    let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let mut registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    let error = registration.update(|instance| instance.with_weight(0)).unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("with_draining(true)"), "{error}");
    registration.update(|instance| instance.with_weight(3)).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    world.put("s/h:2", r#"{"Op":0,"Addr":"h:2","Metadata":{"Weight":0}}"#).await;
    let resolution = world.resolver().resolve("s").unwrap();
    resolved(&resolution, "both", |snapshot| snapshot.len() == 2).await;
    let weights: Vec<_> = resolution.snapshot().instances().map(Instance::weight).collect();
    assert_eq!(weights, [Some(3), None]);
}

/// F67: keys of a name below count, as Go has it, and the resolver of the upper name says so once.
#[tokio::test]
async fn a_resolver_that_sees_a_name_below_its_own_says_so_once() {
    const WARNING: &str = "prefix also holds keys of a longer name";
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    let resolver = world.resolver();
    world.put("shopping/h:9", &naming("h:9")).await;
    world.put("shop/payments/h:1", &naming("h:1")).await;
    let (shop, payments) = (resolver.resolve("shop").unwrap(), resolver.resolve("shop/payments").unwrap());
    servers_are(&shop, &["h:1"]).await;
    assert_eq!(log.count_at(Level::WARN, WARNING), 0, "one name alone may be written so: {}", log.text());
    world.put("shop/h:2", &naming("h:2")).await;
    servers_are(&shop, &["h:1", "h:2"]).await;
    servers_are(&payments, &["h:1"]).await;
    world.put("shop/refunds/h:3", &naming("h:3")).await;
    servers_are(&shop, &["h:1", "h:2", "h:3"]).await;
    assert_eq!(log.count_at(Level::WARN, WARNING), 1, "{}", log.text());
    assert_eq!(log.count_at(Level::WARN, "below=\"shop/payments\""), 1, "{}", log.text());
}

/// F67: a registrar says it too, whichever of the two names comes first, and once.
#[tokio::test]
async fn a_registrar_of_a_name_above_or_below_another_says_so_once() {
    const WARNING: &str = "service name is nested in another";
    for names in [["shop", "shop/payments"], ["shop/payments", "shop"]] {
        let world = World::start().await;
        let at = |address: &str| Instance::new(address).unwrap();
        // Of another process.
        world.put(&format!("{}/10.0.0.5:1", names[0]), &naming("10.0.0.5:1")).await;
        let (log, _guard) = Log::begin();
        let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
        let mut others = Vec::new();
        for port in 1..=3 {
            others.push(registrar.register(names[1], at(&format!("10.0.0.6:{port}"))).unwrap());
            others.push(registrar.register("shopping", at(&format!("10.0.0.7:{port}"))).unwrap());
        }
        for other in &others {
            other.ready(PATIENCE).await.unwrap();
        }
        until("the warning", async || (log.count_at(Level::WARN, WARNING) > 0).then_some(())).await;
        assert_eq!(log.count_at(Level::WARN, "upper=\"shop\" lower=\"shop/payments\""), 1, "{}", log.text());
        // Whatever else is looked for has been.
        others.push(registrar.register("last", at("10.0.0.8:1")).unwrap());
        others.last().unwrap().ready(PATIENCE).await.unwrap();
        assert_eq!(log.count_at(Level::WARN, WARNING), 1, "{}", log.text());
    }
}

/// F67: what `Conflict::UniqueKey` wrote beside a key that was taken is a key of the service itself; one of a name below is still
/// told.
#[tokio::test]
async fn a_registrar_knows_the_unique_keys_of_its_service() {
    const WARNING: &str = "service name is nested in another";
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    // The first key of a host name sorts behind all digits, as those of nested names do.
    let taken = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let at = |id: &str| Instance::new("host-a:1").unwrap().with_id(id);
    let first = taken.register_with("shop", at("pod-1"), RegistrationOptions::new().key("primary")).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let beside = |key: &str| RegistrationOptions::new().key(key).conflict(Conflict::UniqueKey);
    let other = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let second = other.register_with("shop", at("pod-2"), beside("primary")).unwrap();
    second.ready(PATIENCE).await.unwrap();
    world.put("shop/host-a:1/pod-3", &naming("host-a:1")).await;
    assert!(world.contents("").await.contains_key("shop/primary/pod-2"));
    looks(&world, &log, "shop").await;
    assert_eq!(log.count_at(Level::WARN, WARNING), 0, "{}", log.text());
    world.put("shop/refunds/h:3", &naming("h:3")).await;
    looks(&world, &log, "shop").await;
    assert_eq!(log.count_at(Level::WARN, WARNING), 1, "{}", log.text());
    assert_eq!(log.count_at(Level::WARN, "lower=\"shop/refunds\""), 1, "{}", log.text());
}

/// Registers a service, and waits until its registrar has looked for names above and below it.
async fn looks(world: &World, log: &Log, service: &str) {
    let looking = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let registration = looking.register(service, Instance::new("10.0.0.6:1").unwrap()).unwrap();
    let before = log.count("nested names checked");
    registration.ready(PATIENCE).await.unwrap();
    until("the look", async || (log.count("nested names checked") > before).then_some(())).await;
    registration.deregister().await.unwrap();
}

/// F67: a key that no client can call is of no service, so that its name is none above.
#[tokio::test]
async fn a_key_above_that_is_no_server_is_no_name() {
    const WARNING: &str = "service name is nested in another";
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    for (key, value) in [("shop/config", "{\"currency\":\"EUR\"}"), ("shop/leader", "not an address")] {
        world.put(key, value).await;
    }
    looks(&world, &log, "shop/payments").await;
    assert_eq!(log.count_at(Level::WARN, WARNING), 0, "{}", log.text());
    world.put("shop/primary", &naming("10.0.0.5:1")).await;
    looks(&world, &log, "shop/payments").await;
    assert_eq!(log.count_at(Level::WARN, "upper=\"shop\" lower=\"shop/payments\""), 1, "{}", log.text());
}

/// F67: a registrar that may not read what lies above or below registers all the same, without a warning.
#[tokio::test]
async fn a_registrar_that_may_not_look_registers_all_the_same() {
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    let _root = world.protect("shop/payments/").await;
    let options = tonic_etcd::EtcdOptions::new([world.etcd.endpoint()]).user("user", "userpw");
    let registrar = Registrar::connect_lazy(options).unwrap();
    let registration = registrar.register("shop/payments", Instance::new("10.0.0.5:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    until("the look", async || (log.count_at(Level::DEBUG, "check for nested names failed") > 0).then_some(())).await;
    assert_eq!(log.count_at(Level::WARN, ""), 0, "{}", log.text());
}

/// F68: weights as others write them count; what is not understood is said once a service.
#[tokio::test]
async fn what_is_not_understood_is_said_once_a_service() {
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    for (number, metadata) in [r#"{"Weight":9}"#, r#"{"WEIGHT":"9.0"}"#, r#"{"weight":9e0}"#].iter().enumerate() {
        world.put(&format!("a/{number}"), &format!(r#"{{"Addr":"h:{}","Metadata":{metadata}}}"#, number + 1)).await;
    }
    for service in ["b", "c"] {
        for port in 1..=3 {
            let value = format!(r#"{{"Addr":"h:{port}","Metadata":{{"Weight":"heavy","draining":"soon"}}}}"#);
            world.put(&format!("{service}/{port}"), &value).await;
        }
    }
    let resolver = world.resolver();
    let understood = resolver.resolve("a").unwrap();
    resolved(&understood, "weights", |snapshot| {
        snapshot.instances().filter(|one| one.weight() == Some(9)).count() == 3
    })
    .await;
    for service in ["b", "c"] {
        let resolution = resolver.resolve(service).unwrap();
        servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
        world.put(&format!("{service}/2"), r#"{"Addr":"h:4","Metadata":{"weight":-1}}"#).await;
        servers_are(&resolution, &["h:1", "h:3", "h:4"]).await;
    }
    assert_eq!(log.count_at(Level::WARN, "not understood"), 2, "{}", log.text());
    assert_eq!(log.count_at(Level::WARN, r#"\"Weight\" is \"heavy\""#), 2, "{}", log.text());
}

/// F69: a key that is put again with other metadata is no news; one whose address, weight, zone or draining changes is.
#[tokio::test]
async fn metadata_that_changes_all_the_time_is_told_at_debug() {
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    let put = async |now: usize, more: &str| {
        let value = format!(r#"{{"Addr":"h:1","Metadata":{{"now":{now}{more}}}}}"#);
        world.put("s/1", &value).await;
    };
    put(0, "").await;
    world.put("s/2", r#"{"Addr":"now=0"}"#).await;
    let resolution = world.resolver().resolve("s").unwrap();
    let now = async |now: usize| {
        let is = |one: &Instance| one.metadata()["now"] == now.to_string();
        resolved(&resolution, "now", |snapshot| snapshot.len() == 1 && snapshot.instances().all(is)).await;
    };
    now(0).await;
    assert_eq!(
        (log.count_at(Level::INFO, "membership changed"), log.count_at(Level::WARN, "record skipped")),
        (1, 1),
        "{}",
        log.text()
    );
    for next in 1..=5 {
        world.put("s/2", &format!(r#"{{"Addr":"now={next}"}}"#)).await;
        put(next, r#","version":"2","id":"x""#).await;
        now(next).await;
    }
    assert_eq!(
        (log.count_at(Level::INFO, "membership changed"), log.count_at(Level::WARN, "record skipped")),
        (1, 1),
        "{}",
        log.text()
    );
    assert!(log.count_at(Level::DEBUG, "instance details changed") >= 5, "{}", log.text());
    for (next, more) in (6..).zip([r#","weight":3"#, r#","weight":3,"zone":"a""#, r#","zone":"a","draining":true"#]) {
        let before = log.count_at(Level::INFO, "membership changed");
        put(next, more).await;
        now(next).await;
        assert_eq!(log.count_at(Level::INFO, "membership changed"), before + 1, "{more}: {}", log.text());
    }
    let before = log.count_at(Level::INFO, "membership changed");
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(log.count_at(Level::INFO, "membership changed"), before + 1, "{}", log.text());
}

/// F67: a look that ended with its runtime is made by the next one.
#[test]
fn a_registrar_looks_again_where_its_runtime_ended_before_it_could() {
    const WARNING: &str = "service name is nested in another";
    let (log, _guard) = Log::begin();
    let [first, second] = [(), ()].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
    let world = second.block_on(World::start());
    second.block_on(world.put("shop/10.0.0.5:1", &naming("10.0.0.5:1")));
    let registrar = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let at = |address: &str| Instance::new(address).unwrap();
    let ended = first.block_on(async {
        let paused = registrar
            .register_with("shop/payments", at("10.0.0.6:1"), RegistrationOptions::new().paused(true))
            .unwrap();
        paused.paused(PATIENCE).await.unwrap();
        paused
    });
    drop((first, ended));
    second.block_on(async {
        let next = registrar.register("shop/payments", at("10.0.0.6:2")).unwrap();
        next.ready(PATIENCE).await.unwrap();
        until("the warning", async || (log.count_at(Level::WARN, WARNING) > 0).then_some(())).await;
    });
}
