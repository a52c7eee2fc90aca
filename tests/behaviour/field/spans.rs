//! Spans: what is made within a request's span outlives it, and has nothing to do with it any more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Proxy;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, Instance, Registrar, Registration, Resolution, ResolutionState, Resolver};
use tracing::span::{Attributes, Id};
use tracing::{Event, Instrument, Subscriber, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::support::{PATIENCE, World, until};

/// What OpenTelemetry would keep: the spans that are open, and the events in each.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Spans>>);

#[derive(Default)]
struct Spans {
    open: BTreeMap<u64, (String, usize)>,
    closed: Vec<&'static str>,
    /// Events of this crate within a request's span.
    within: BTreeMap<String, Vec<String>>,
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, Spans> {
        self.0.lock().unwrap()
    }

    fn is_closed(&self, name: &str) -> bool {
        self.state().closed.contains(&name)
    }

    /// The spans that are open, each with its events.
    fn open(&self) -> Vec<(String, usize)> {
        self.state().open.values().cloned().collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Kept {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        let name = format!("{}::{}", metadata.target(), metadata.name());
        self.state().open.insert(id.into_u64(), (name, 0));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(scope) = context.event_scope(event) else { return };
        let (target, spans) =
            (event.metadata().target(), scope.map(|span| (span.id(), span.name())).collect::<Vec<_>>());
        let mut state = self.state();
        for (place, (id, name)) in spans.into_iter().enumerate() {
            if place == 0 {
                state.open.entry(id.into_u64()).and_modify(|(_, events)| *events += 1);
            }
            if name.starts_with("request") && target.starts_with("tonic_etcd") {
                state.within.entry(name.to_owned()).or_default().push(format!("{event:?}"));
            }
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let name = context.span(&id).map(|span| span.name());
        let mut state = self.state();
        state.open.remove(&id.into_u64());
        state.closed.extend(name);
    }
}

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }
}

/// A greeter on a thread of its own, whose own spans are of no concern here.
fn greeter() -> (SocketAddr, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let incoming = runtime.block_on(async { TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap() });
    let address = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Me));
    let server = async move { server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await };
    thread::spawn(move || runtime.block_on(server));
    (address, stop)
}

async fn greet(channel: &BalancedChannel) -> Result<(), Status> {
    let mut client = GreeterClient::new(channel.clone());
    client.say_hello(HelloRequest { name: "x".into() }).await.map(drop)
}

/// All that a request may make lazily.
struct Made {
    resolution: Resolution,
    channel: BalancedChannel,
    _tonics: tonic::transport::Channel,
    registration: Registration,
}

async fn make(etcd: &Proxy, name: &str) -> Made {
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).unwrap();
    let resolution = resolver.resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    let tonics = resolution.balance_channel().unwrap();
    let registrar = Registrar::builder([etcd.endpoint()]).ttl(Duration::from_secs(3)).connect_lazy().unwrap();
    let registration = registrar.register("t", Instance::new(name).unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    channel.wait_until_ready(PATIENCE).await.unwrap();
    greet(&channel).await.unwrap();
    Made { resolution, channel, _tonics: tonics, registration }
}

/// Both etcd's and the server's connections are lost, and come again; a call is made.
async fn reconnect(made: &Made, etcd: &Proxy, server: &Proxy) {
    let (to_etcd, to_server) = (etcd.connections(), server.connections());
    etcd.cut();
    server.cut();
    until("connections", async || {
        (etcd.connections() >= to_etcd + 2 && server.connections() > to_server).then_some(())
    })
    .await;
    until("the server", async || greet(&made.channel).await.ok()).await;
    until("etcd", async || (made.resolution.state() == ResolutionState::Current).then_some(())).await;
    made.registration.ready(PATIENCE).await.unwrap();
}

/// F60: a request makes a resolver, channels and a registrar. Its span closes when it ends, no later event stands in it, and while
/// they live through reconnects neither spans nor events of open spans grow: of this crate and of h2, at every level.
#[test]
fn what_a_request_makes_outlives_its_span() {
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(kept.clone()));
    let (address, _stop) = greeter();
    let server = Proxy::to(address);
    let outside = Builder::new_current_thread().enable_all().build().unwrap();
    let world = outside.block_on(World::start());
    let etcd = Proxy::to(world.etcd.address());
    outside.block_on(world.put("s/1", &server.address().to_string()));
    drop(outside);

    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(make(&etcd, "h:1").instrument(info_span!("request of a task", user = "u")));
    assert!(kept.is_closed("request of a task"), "{:?}", kept.open());
    // The runtime is driven within a span: what its tasks do in the meantime is not that request's.
    let also = info_span!("request of a thread", user = "v").in_scope(|| {
        runtime.block_on(async {
            let also = make(&etcd, "h:2").await;
            reconnect(&made, &etcd, &server).await;
            also
        })
    });
    assert!(kept.is_closed("request of a thread"), "{:?}", kept.open());

    let mut open = Vec::new();
    for _ in 0..6 {
        runtime.block_on(reconnect(&made, &etcd, &server));
        runtime.block_on(reconnect(&also, &etcd, &server));
        open.push(kept.open());
    }
    let of = |open: &Vec<(String, usize)>| (open.len(), open.iter().map(|(_, events)| events).sum::<usize>());
    let (first, last) = (of(&open[1]), of(&open[5]));
    assert!(last <= first && last.0 <= 2, "spans and their events grow: {open:?}");
    let state = kept.state();
    let of_calls = |event: &String| event.contains("balance/call");
    let strange: Vec<_> = state.within.iter().filter(|(_, events)| !events.iter().all(of_calls)).collect();
    assert!(strange.is_empty(), "events in a request's span: {strange:#?}");
}
