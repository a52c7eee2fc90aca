//! From the first connection to the last.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::GreeterServer;
use test_support::Etcd;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic_etcd::{
    BalancedChannel, Conflict, Instance, Registrar, RegistrationOptions, RegistrationState, Resolver, Serve, ServeState,
};
use tower::service_fn;

use super::{Me, Served, gone, greet, registrar, there};
use crate::support::{PATIENCE, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_while_it_serves_and_not_after() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut served = Served::start(&registrar, |serve| serve.propagation_delay(Duration::from_millis(50))).await;
    let mut states = served.control.states();
    served.control.ready(PATIENCE).await.unwrap();
    assert!(served.control.is_ready() && registrar.health().is_ready());
    assert_eq!(world.lease_of(&served.key()).await, registrar.lease_id());
    let [(target, state)] = &served.control.registrations()[..] else { panic!("one service") };
    assert_eq!((target.name(), state.is_in_etcd()), ("s", true));
    assert_eq!(served.control.instance().unwrap().addresses()[0].to_string(), served.address.to_string());
    let channel = world.resolver().channel("s").unwrap();
    let mut client = GreeterClient::new(channel);
    let answer = client.say_hello(HelloRequest { name: "you".into() }).await.unwrap();
    assert_eq!(answer.into_inner().message, "Hello you");

    served.stop();
    let (control, address) = (served.control.clone(), served.address);
    served.end().await.unwrap();
    assert!(world.contents("").await.is_empty() && world.leases().await.is_empty());
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens");
    assert!(matches!(control.state(), ServeState::Stopped { .. }) && !control.is_ready());
    assert!(control.registrations().is_empty());
    assert!(control.ready(PATIENCE).await.unwrap_err().is_closed());
    assert!(control.update(|instance| instance).unwrap_err().is_closed());
    // Nobody has read them until now, and none is skipped.
    let mut steps = Vec::new();
    while let Some(state) = states.next().await {
        steps.push(state);
    }
    let one_that_starts = usize::from(matches!(steps[0], ServeState::Starting { .. }));
    assert!(
        matches!(
            &steps[one_that_starts..],
            [
                ServeState::Serving,
                ServeState::Leaving,
                ServeState::Draining { why: None, .. },
                ServeState::Stopped { why: None, .. }
            ]
        ),
        "{steps:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_while_etcd_is_away_and_is_registered_when_etcd_comes() {
    let etcd = Etcd::start();
    etcd.kill();
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let served = Served::start(&registrar, |serve| serve).await;
    assert_eq!(greet(&mut served.client().await, "you").await.unwrap(), "Hello you");
    let error = served.control.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_timeout() && format!("{error:?}").contains("refused"), "{error:?}");
    assert!(!served.control.is_ready());
    etcd.start_again();
    served.control.ready(PATIENCE).await.unwrap();
    assert!(served.control.is_ready());
    served.control.stop();
    served.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_services_share_a_server_and_a_lease() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let served = Served::ready(&registrar, |serve| {
        serve.service("team/other").describe(|instance| instance.with_weight(3)).propagation_delay(Duration::ZERO)
    })
    .await;
    let contents = world.contents("").await;
    let keys: Vec<_> = contents.keys().cloned().collect();
    assert_eq!(keys, [served.key(), format!("team/other/{}", served.address)]);
    assert!(contents.values().all(|value| value.contains("\"weight\":3")), "{contents:?}");
    assert_eq!(world.leases().await.len(), 1);

    // In place, and for all of them.
    let lease = registrar.lease_id();
    served.control.update(|instance| instance.with_zone("a")).unwrap();
    served.control.ready(PATIENCE).await.unwrap();
    let contents = world.contents("").await;
    assert!(contents.values().all(|value| value.contains("\"weight\":3,\"zone\":\"a\"")), "{contents:?}");
    let refused = served.control.update(|instance| instance.with_metadata("note", "x".repeat(2 << 20)));
    assert!(refused.unwrap_err().is_invalid_argument());
    assert_eq!(registrar.lease_id(), lease);
    served.control.stop();
    served.end().await.unwrap();
    assert!(world.contents("").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_paused_at_any_time() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let served = Served::start(&registrar, |serve| {
        serve.control().pause();
        serve.control().update(|instance| instance.with_zone("early")).unwrap();
        serve
    })
    .await;
    let paused = async || {
        let states = served.control.registrations();
        let paused = |(_, state): &(_, RegistrationState)| matches!(state, RegistrationState::Paused { .. });
        (states.len() == 1 && states.iter().all(paused)).then_some(())
    };
    until("paused", paused).await;
    assert!(world.contents("").await.is_empty() && !served.control.is_ready());
    served.control.resume();
    served.control.ready(PATIENCE).await.unwrap();
    assert!(world.contents("").await[&served.key()].contains("early"));
    served.control.pause();
    gone(&world, &served.key()).await;
    assert_eq!(greet(&mut served.client().await, "you").await.unwrap(), "Hello you", "it serves on");
    served.control.resume();
    there(&world, &served.key()).await;
    served.control.stop();
    served.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_its_own_is_refused_to_others() {
    let world = World::start().await;
    let (first, second) = (registrar(&world), registrar(&world));
    let primary = |serve: Serve| {
        serve
            .registration(RegistrationOptions::new().key("primary").conflict(Conflict::Wait))
            .propagation_delay(Duration::ZERO)
    };
    let holder = Served::ready(&first, primary).await;
    let waits = Served::start(&second, primary).await;
    assert!(waits.control.ready(PATIENCE).await.unwrap_err().is_conflict());
    assert_eq!(world.lease_of("s/primary").await, first.lease_id());
    holder.control.stop();
    holder.end().await.unwrap();
    until("the key", async || waits.control.is_ready().then_some(())).await;
    assert_eq!(world.lease_of("s/primary").await, second.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_ends_at_once_and_leaves_in_the_background() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let served = Served::ready(&registrar, |serve| serve).await;
    let call = super::waiting(&served).await;
    served.task.abort();
    let error = call.await.unwrap().unwrap_err();
    assert_ne!(error.code(), tonic::Code::Ok);
    until("the handler's end", async || (served.me.ended.load(Ordering::SeqCst) == 1).then_some(())).await;
    gone(&world, &served.key()).await;
    assert!(matches!(served.control.state(), ServeState::Stopped { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_call_is_that_calls_alone() {
    let world = World::start().await;
    let served = Served::ready(&registrar(&world), |serve| serve).await;
    let mut client = served.client().await;
    assert!(greet(&mut client, "panic").await.is_err());
    assert_eq!(greet(&mut served.client().await, "you").await.unwrap(), "Hello you");
    assert!(served.control.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_with_the_reason() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let refuse = async |say: fn(Serve) -> Serve| Served::start(&registrar, say).await.end().await.unwrap_err();
    for (error, reason) in [
        (refuse(|serve| serve.service("")).await, "empty"),
        (refuse(|serve| serve.service("etcd://elsewhere:1/s")).await, "elsewhere"),
        (refuse(|serve| serve.advertise("0.0.0.0")).await, "every interface"),
        (refuse(|serve| serve.advertise("h:x")).await, "h:x"),
        (refuse(|serve| serve.service("s")).await, "twice"),
        (refuse(|serve| serve.https().advertise("unix:/run/s")).await, "without TLS"),
        // Only known once it serves.
        (
            refuse(|serve| serve.describe(|instance| instance.with_metadata("note", "x".repeat(2 << 20)))).await,
            "etcd takes",
        ),
        // F24: a weight of 0 means nothing.
        (refuse(|serve| serve.describe(|instance| instance.with_weight(0))).await, "with_draining(true)"),
        // F21: nobody can call it.
        (refuse(|serve| serve.advertise("224.0.0.1:1")).await, "multicast"),
        (refuse(|serve| serve.registration(RegistrationOptions::new().key("/a"))).await, "key"),
        (
            refuse(|serve| {
                serve.healthy_when(Duration::from_millis(9), async || Ok::<_, std::convert::Infallible>(()))
            })
            .await,
            "10ms",
        ),
    ] {
        assert!(error.is_invalid_argument() && error.to_string().contains(reason), "{error}");
    }
    let served = Served::start(&registrar, |serve| serve.service("")).await;
    assert!(served.control.ready(PATIENCE).await.is_err(), "nobody waits for what will never be");
    let never = registrar.service("s").control();
    assert!(never.ready(PATIENCE).await.unwrap_err().is_closed());
    until("all to leave", async || world.contents("").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_is_a_signal_to_leave() {
    let world = World::start().await;
    let (connections, incoming) = unbounded_channel::<std::io::Result<DuplexStream>>();
    let me = Me::default();
    let router = Server::builder().add_service(GreeterServer::new(me.clone()));
    let serve = registrar(&world).service("s").advertise("h:1").propagation_delay(Duration::ZERO);
    let control = serve.control();
    let task = tokio::spawn(serve.serve_with_incoming(router, UnboundedReceiverStream::new(incoming), pending()));
    control.ready(PATIENCE).await.unwrap();

    connections.send(Err(std::io::Error::other("one that failed"))).unwrap();
    let connections = Arc::new(Mutex::new(Some(connections)));
    let listeners = connections.clone();
    let connector = service_fn(move |_| {
        let (ours, theirs) = duplex(64 * 1024);
        let dialled = listeners.lock().unwrap().as_ref().and_then(|listener| listener.send(Ok(theirs)).ok());
        async move { dialled.map(|()| ours).ok_or(std::io::Error::other("nobody listens")) }
    });
    let resolution = world.resolver().resolve("s").unwrap();
    let mut client = GreeterClient::new(BalancedChannel::builder().connector(connector).build(&resolution).unwrap());
    let call = tokio::spawn(async move { client.say_hello(HelloRequest { name: "wait".into() }).await });
    until("the call", async || (me.begun.load(Ordering::SeqCst) == 1).then_some(())).await;
    drop(connections.lock().unwrap().take());
    gone(&world, "s/h:1").await;
    me.answers.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "at last");
    task.await.unwrap().unwrap();
}

/// What needs timers says so at once where there are none.
#[test]
fn a_runtime_without_timers_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let endpoint = "http://127.0.0.1:1";
        let registrar = Registrar::connect_lazy([endpoint]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = Server::builder().add_service(GreeterServer::new(Me::default()));
        let registered = registrar.register("s", Instance::new("10.0.0.1:1").unwrap()).map(drop);
        let served = registrar.service("s").serve(router, listener, pending()).await;
        let resolved = Resolver::connect_lazy([endpoint]).unwrap().resolve("s").map(drop);
        for result in [registered, served, resolved] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("needs a tokio runtime with timers"), "{error}");
        }
    });
}
