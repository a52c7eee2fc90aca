//! Serving: registered when it is ready, out of the directory before it stops.

mod address;
mod beside;
mod checks;
#[cfg(feature = "tonic-health")]
mod health;
mod leaving;
mod lifecycle;
mod metrics;
mod shutdown;
mod transports;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_etcd::{Error, Registrar, Serve, ServeControl, ServeState};

use crate::support::{PATIENCE, World, until};

/// A greeter that answers as the name in the request asks.
#[derive(Clone)]
struct Me {
    /// "wait" is answered with a permit of these.
    answers: Arc<Semaphore>,
    /// How many calls were begun, and how many of them have ended in any way.
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Default for Me {
    fn default() -> Self {
        Self { answers: Arc::new(Semaphore::new(0)), begun: Arc::default(), ended: Arc::default() }
    }
}

impl Me {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Counts when it is dropped.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let _ended = Ended(self.ended.clone());
        let from = request.remote_addr();
        let message = match request.into_inner().name.as_str() {
            "wait" => {
                self.answers.acquire().await.expect("open").forget();
                "at last".to_owned()
            }
            "from" => format!("{from:?}"),
            "panic" => panic!("asked for"),
            name => format!("Hello {name}"),
        };
        Ok(Response::new(HelloReply { message }))
    }
}

/// A server that is served in a task of its own.
struct Served {
    me: Me,
    address: SocketAddr,
    control: ServeControl,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Served {
    /// On a port of its own, as `say` says.
    async fn start(registrar: &Registrar, say: impl FnOnce(Serve) -> Serve) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let me = Me::default();
        let serve = say(registrar.service("s"));
        let control = serve.control();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Server::builder().add_service(GreeterServer::new(me.clone()));
        let task = tokio::spawn(serve.serve(router, listener, async { drop(stopped.await) }));
        Self { me, address, control, stop: Some(stop), task }
    }

    /// The same, and waits until it is registered.
    async fn ready(registrar: &Registrar, say: impl FnOnce(Serve) -> Serve) -> Self {
        let served = Self::start(registrar, say).await;
        served.control.ready(PATIENCE).await.unwrap();
        served
    }

    fn key(&self) -> String {
        format!("s/{}", self.address)
    }

    async fn client(&self) -> GreeterClient<Channel> {
        GreeterClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    /// Gives the shutdown signal.
    fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    async fn end(self) -> Result<(), Error> {
        timeout(PATIENCE, self.task).await.expect("an end in time").expect("no panic")
    }

    async fn reaches(&self, what: &str, is: impl Fn(&ServeState) -> bool) {
        until(what, async || is(&self.control.state()).then_some(())).await;
    }
}

async fn greet(client: &mut GreeterClient<Channel>, name: &str) -> Result<String, Status> {
    client.say_hello(HelloRequest { name: name.into() }).await.map(|answer| answer.into_inner().message)
}

/// A call on its way that the server holds until it is given an answer.
async fn waiting(served: &Served) -> JoinHandle<Result<String, Status>> {
    let (mut client, before) = (served.client().await, served.me.begun.load(Ordering::SeqCst));
    let call = tokio::spawn(async move { greet(&mut client, "wait").await });
    until("the call", async || (served.me.begun.load(Ordering::SeqCst) > before).then_some(())).await;
    call
}

fn registrar(world: &World) -> Registrar {
    Registrar::builder([world.etcd.endpoint()]).ttl(Duration::from_secs(3)).connect_lazy().unwrap()
}

async fn there(world: &World, key: &str) {
    until(&format!("{key} to come"), async || world.lease_of(key).await).await;
}

async fn gone(world: &World, key: &str) {
    until(&format!("{key} to go"), async || world.lease_of(key).await.is_none().then_some(())).await;
}
