//! Codecs and endpoint configurations that panic.

use std::fmt;

use tokio_stream::StreamExt;
use tonic_etcd::codec::{Codec, DecodeError, Detect, EncodeError, Record};
use tonic_etcd::{Instance, Registrar, ResolutionState, Resolver, Target};
use tower::discover::Change;

use crate::support::{PATIENCE, World, resolved, servers_are, until};

/// Panics on what has a "bang" in it.
#[derive(Debug)]
struct Panics;

impl Codec for Panics {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        match value {
            b"bang" => panic!("bang"),
            b"bang with a text" => panic!("at {}", String::from_utf8_lossy(key)),
            b"bang with an index" => Ok(vec![Instance::new("h:1").unwrap(); [0_usize][value.len()]]),
            b"bang with anything" => std::panic::panic_any(7),
            value => Detect.decode(key, value),
        }
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        assert!(!instance.metadata().contains_key("bang"), "bang of {:?}", instance.addresses());
        Detect.encode(target, instance)
    }
}

/// F14: the record on which a codec panics cannot be read, listed or watched; everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_codec_that_panics_costs_one_record() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    world.put("s/2", "bang").await;
    world.put("s/3", "h:3").await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).codec(Panics).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:3"]).await;
    let why = |key: &str| {
        let snapshot = resolution.snapshot();
        snapshot.get(key.as_bytes()).and_then(|entry| entry.error().map(ToString::to_string))
    };
    assert_eq!(why("s/2").unwrap(), "the codec panicked: bang");
    for (value, reason) in [
        ("bang with a text", "the codec panicked: at s/1"),
        ("bang with an index", "the codec panicked: index out of bounds"),
        ("bang with anything", "the codec panicked: no text"),
    ] {
        world.put("s/1", value).await;
        servers_are(&resolution, &["h:3"]).await;
        assert!(why("s/1").unwrap().starts_with(reason), "{:?}", why("s/1"));
        world.put("s/1", "h:1").await;
        servers_are(&resolution, &["h:1", "h:3"]).await;
        assert_eq!(resolution.state(), ResolutionState::Current);
    }
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
}

/// F14: what the codec panics on is refused at `register` and at `update`; what is registered stays, also where the codec panics on
/// what another has put at its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_record_cannot_be_made_is_refused() {
    let world = World::start().await;
    let registrar = Registrar::builder([world.etcd.endpoint()]).codec(Panics).connect_lazy().unwrap();
    let at = |address: &str| Instance::new(address).unwrap();
    let mut first = registrar.register("s", at("h:1")).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let lease = first.lease_id();
    let refused = registrar.register("s", at("h:2").with_metadata("bang", "")).unwrap_err();
    assert!(refused.is_invalid_argument(), "{refused}");
    assert!(refused.to_string().contains("the codec panicked: bang of [h:2]"), "{refused}");
    let refused = first.update(|instance| instance.with_metadata("bang", "")).unwrap_err();
    assert!(refused.to_string().contains("the codec panicked"), "{refused}");
    let other = registrar.register("s", at("h:2")).unwrap();
    other.ready(PATIENCE).await.unwrap();
    world.put("s/h:1", "bang").await;
    until("the key to be repaired", async || {
        let contents = world.contents("s/").await;
        (contents.len() == 2 && !contents["s/h:1"].contains("bang")).then_some(())
    })
    .await;
    first.ready(PATIENCE).await.unwrap();
    assert_eq!(first.lease_id(), lease);
    first.deregister().await.unwrap();
    other.deregister().await.unwrap();
    assert!(world.contents("s/").await.is_empty());
}

/// What it says of itself panics.
#[derive(Debug)]
struct Speechless;

impl fmt::Display for Speechless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("speechless")
    }
}

impl std::error::Error for Speechless {}

/// F14: a server whose endpoint's configuration panics is left out; the others come, and it does too once it does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_configuration_panics_is_left_out() {
    let world = World::start().await;
    for port in 1..=4 {
        world.put(&format!("s/{port}"), &format!("h:{port}")).await;
    }
    let resolver = Resolver::builder([world.etcd.endpoint()])
        .configure_endpoint(|address, endpoint| match address.port() {
            1 => panic!("not this one"),
            2 => Err(Speechless),
            _ => Ok(endpoint),
        })
        .connect_lazy()
        .unwrap();
    let resolution = resolver.resolve("s").unwrap();
    resolved(&resolution, "all", |snapshot| snapshot.len() == 4).await;
    let mut discover = resolution.discover();
    for expected in ["h:3", "h:4", "h:5"] {
        let change = tokio::time::timeout(PATIENCE, discover.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(&change, Change::Insert(key, _) if key.to_string() == expected), "{expected}");
        world.put("s/5", "h:5").await;
    }
}
