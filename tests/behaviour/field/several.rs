//! Servers of several services: what is refused changes none of them.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use etcd_client::GetOptions;
use test_support::Log;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_etcd::codec::{Codec, DecodeError, EncodeError, GrpcNaming, Record};
use tonic_etcd::{Departure, EtcdOptions, Instance, Registrar, RegistrationState, Serve, ServeControl, Target};

use crate::support::{PATIENCE, World, until};

/// Refuses weights for the service "b", after so long that whatever was taken on for another one would be in etcd.
#[derive(Debug)]
struct Picky;

impl Codec for Picky {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        GrpcNaming.decode(key, value)
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        if target.name() == "b" {
            thread::sleep(Duration::from_millis(100));
        }
        if target.name() == "b" && instance.weight().is_some() {
            return Err(EncodeError::new("no weights here"));
        }
        GrpcNaming.encode(target, instance)
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn router() -> Router {
    Server::builder().add_routes(tonic::service::Routes::default())
}

/// Each key with its value, and how often it was put.
async fn stored(world: &World) -> BTreeMap<String, (String, i64)> {
    let mut all = BTreeMap::new();
    for service in ["a/", "b/", "c/"] {
        for (key, value) in world.contents(service).await {
            let version = world.admin.kv_client().get(&*key, None).await.unwrap().kvs()[0].version();
            all.insert(key, (value, version));
        }
    }
    all
}

fn of_three(registrar: &Registrar) -> (Serve, ServeControl) {
    let serve = registrar.service("a").service("b").service("c").propagation_delay(Duration::ZERO);
    let control = serve.control();
    (serve, control)
}

/// F16: an update that is refused for one of three services changes none of them, whoever refuses it: the codec, or a key that
/// this registrar has registered already. The error names the service.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_refused_for_one_service_changes_none() {
    let world = World::start().await;
    let registrar = Registrar::builder([world.etcd.endpoint()]).codec(Picky).connect_lazy().unwrap();
    let other = registrar.register("b", Instance::new("h:7").unwrap()).unwrap();
    let (serve, control) = of_three(&registrar);
    let served = tokio::spawn(serve.serve(router(), listener().await, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    other.ready(PATIENCE).await.unwrap();
    let (before, instance) = (stored(&world).await, control.instance().unwrap());
    assert_eq!(before.len(), 4);

    let refused = control.update(|instance| instance.with_weight(3)).unwrap_err();
    assert!(refused.is_invalid_argument() && refused.to_string().contains("service \"b\""), "{refused}");
    let twice = |instance: Instance| instance.with_address("h:7").unwrap();
    let refused = control.update(twice).unwrap_err();
    assert!(refused.is_invalid_argument() && refused.to_string().contains("b/h:7"), "{refused}");
    assert_eq!(control.instance().unwrap(), instance);
    let states = control.registrations();
    let is_registered = |(_, state): &(Target, RegistrationState)| matches!(state, RegistrationState::Registered);
    assert!(states.len() == 3 && states.iter().all(is_registered), "nothing is being changed: {states:?}");

    control.update(|instance| instance.with_zone("z")).unwrap();
    control.ready(PATIENCE).await.unwrap();
    for (key, (value, version)) in stored(&world).await.into_iter().filter(|(key, _)| key != "b/h:7") {
        assert!(value.contains("\"z\"") && version == 2, "{key}: {value}, put {version} times, before {before:?}");
    }
    control.stop();
    served.await.unwrap().unwrap();
    other.deregister().await.unwrap();
}

/// F16: an update that is refused before the server is ready changes nothing either: it is left out with a warning, those beside it
/// hold, and later ones are refused to their caller.
#[tokio::test]
async fn an_update_that_is_refused_before_it_serves_is_left_out() {
    const LEFT_OUT: &str = "instance change refused, leaving it out";
    let world = World::start().await;
    let (log, _guard) = Log::begin();
    let registrar = Registrar::builder([world.etcd.endpoint()]).codec(Picky).connect_lazy().unwrap();
    let other = registrar.register("b", Instance::new("h:7").unwrap()).unwrap();
    other.ready(PATIENCE).await.unwrap();
    let (serve, control) = of_three(&registrar);
    control.update(|instance| instance.with_zone("z")).unwrap();
    control.update(|instance| instance.with_weight(3)).unwrap();
    control.update(|instance| instance.with_address("h:7")).unwrap();
    control.update(|instance| instance.with_version("2")).unwrap();
    let served = tokio::spawn(serve.serve(router(), listener().await, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    assert_eq!(log.warned(LEFT_OUT), 2, "{}", log.text());
    let instance = control.instance().unwrap();
    assert_eq!((instance.zone(), instance.version(), instance.weight()), (Some("z"), Some("2"), None));
    let refused = control.update(|instance| instance.with_weight(3)).unwrap_err();
    assert!(refused.to_string().contains("no weights here"), "{refused}");
    assert_eq!(control.instance().unwrap(), instance);
    let stored = stored(&world).await;
    let of_server = |(key, _): &(&String, &(String, i64))| *key != "b/h:7";
    assert_eq!(stored.iter().filter(of_server).count(), 3);
    for (key, (value, version)) in stored.iter().filter(of_server) {
        assert!(value.contains("\"z\"") && !value.contains("weight") && *version == 1, "{key}: {value}, {version}");
    }
    control.stop();
    served.await.unwrap().unwrap();
    other.deregister().await.unwrap();
}

/// F16: a mark of departure is an update as well. What `Serve::describe` makes of the instance is needed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_it_serves_registers_nothing() {
    let world = World::start().await;
    let registrar = Registrar::builder([world.etcd.endpoint()]).codec(Picky).connect_lazy().unwrap();
    let before = world.revision().await;
    let (serve, _control) = of_three(&registrar);
    let serve = serve.describe(|instance| instance.with_weight(3));
    let refused = serve.serve(router(), listener().await, std::future::pending()).await.unwrap_err();
    assert!(refused.is_invalid_argument() && refused.to_string().contains("service \"b\""), "{refused}");
    assert_eq!(world.revision().await, before, "nothing was ever put");

    // A key that this registrar has registered already.
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    let other = registrar.register("c", Instance::new(address).unwrap()).unwrap();
    other.ready(PATIENCE).await.unwrap();
    let before = world.revision().await;
    let (serve, _control) = of_three(&registrar);
    let serve = serve.departure(Departure::MarkDraining);
    let refused = serve.serve(router(), listener, std::future::pending()).await.unwrap_err();
    assert!(refused.is_invalid_argument() && refused.to_string().contains("service \"c\""), "{refused}");
    assert_eq!(world.revision().await, before, "nothing was ever put");
    other.deregister().await.unwrap();
}

/// F16: what etcd refuses is the matter of one service: the other one is registered and updated, and the error says which is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_refuses_is_told_of_its_service() {
    let world = World::start().await;
    let root = world.protect("p/").await;
    let options = EtcdOptions::from([world.etcd.endpoint()]).user("user", "userpw");
    let registrar = Registrar::connect_lazy(options).unwrap();
    let serve = registrar.service("p/a").service("q/b").propagation_delay(Duration::ZERO);
    let serve = serve.deregister_timeout(Duration::from_secs(1));
    let control = serve.control();
    let served = tokio::spawn(serve.serve(router(), listener().await, std::future::pending()));
    let stored = async || {
        let read = root.kv_client().get("p/", Some(GetOptions::new().with_prefix())).await.ok()?;
        Some(read.kvs().first()?.value_str().unwrap().to_owned())
    };
    until("the one that may be written", stored).await;
    control.update(|instance| instance.with_zone("z")).unwrap();
    until("its update", async || stored().await.filter(|value| value.contains("\"z\""))).await;
    let error = control.ready(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("q/b"), "{error:?}");
    assert!(format!("{error:?}").contains("permission denied"), "{error:?}");
    let states: BTreeMap<_, _> =
        control.registrations().into_iter().map(|(target, state)| (target.name().to_owned(), state)).collect();
    assert!(states["p/a"].is_in_etcd() && !states["q/b"].is_in_etcd(), "{states:?}");
    control.stop();
    served.await.unwrap().unwrap();
}
