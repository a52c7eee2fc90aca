//! Which of many servers is connected to first.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use http::Uri;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::Instance;
use tower::service_fn;

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, over, ready, until};

const DEAD: u8 = 200;

/// 2 000 addresses before which all that is tried waits: one listener whose backlog is full.
struct FullBacklog {
    port: u16,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        Self { port, _listener: listener, _waiting: waiting }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let at = |high, low| SocketAddr::from((Ipv4Addr::new(127, 1, 100 + high, low), self.port));
        (0..10_u8).flat_map(|high| (0..DEAD).map(move |low| at(high, low))).collect()
    }
}

/// The last in order.
fn live() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 0))
}

/// F42: 2 000 servers whose backlogs are full, and a stock server that is last in order and says GOAWAY again and again:
/// calls never wait for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_server_among_many_dead_ones_is_found_at_once_and_again_after_each_goaway() {
    test_support::raise_fd_limit();
    let dead = FullBacklog::new();
    let listener = TcpListener::bind(live()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpIncoming::from(listener);
    let server = Server::builder()
        .max_connection_age(Duration::from_millis(800))
        .add_service(GreeterServer::new(Hello))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let mut addresses = dead.addresses();
    addresses.push(address);
    let channel = over(builder().connect_timeout(CONNECT_TIMEOUT), &addresses);
    let began = Instant::now();
    greet(&channel).await.unwrap();
    let (first, mut longest) = (began.elapsed(), Duration::ZERO);
    for _ in 0..100 {
        let began = Instant::now();
        greet(&channel).await.unwrap();
        longest = longest.max(began.elapsed());
        sleep(Duration::from_millis(40)).await;
    }
    assert!(first < SOON && longest < SOON, "{first:?} to the first call, {longest:?} to another");
}

/// F42 says a second; machines that test are busy. No attempt ends by itself before that.
const SOON: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Attempts under way, and the most that ever were.
#[derive(Default)]
struct Attempts {
    now: AtomicUsize,
    most: AtomicUsize,
    begun: AtomicUsize,
}

struct Attempt(Arc<Attempts>);

impl Attempt {
    fn begin(attempts: &Arc<Attempts>) -> Self {
        attempts.begun.fetch_add(1, Ordering::SeqCst);
        let now = attempts.now.fetch_add(1, Ordering::SeqCst) + 1;
        attempts.most.fetch_max(now, Ordering::SeqCst);
        Self(attempts.clone())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// F42: no more than 1 024 attempts at once, each of which is tried again, and not in haste.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_1024_attempts_at_once() {
    let attempts = Arc::<Attempts>::default();
    let counted = attempts.clone();
    let good = Peer::start(Script::Greet).await;
    let port = good.address.port();
    let connector = service_fn(move |uri: Uri| {
        let counted = counted.clone();
        async move {
            let _attempt = Attempt::begin(&counted);
            if uri.host() != Some("last") {
                std::future::pending::<()>().await;
            }
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
        }
    });
    let (channel, set) = changing(builder().connect_timeout(CONNECT_TIMEOUT).connector(connector));
    for number in 0..5_000 {
        set.put(&format!("{number}"), Instance::new(format!("dead{number}:1")).unwrap());
    }
    set.put("last", Instance::new(format!("last:{port}")).unwrap());
    let began = Instant::now();
    greet(&channel).await.unwrap();
    let first = began.elapsed();
    assert!(first < SOON, "{first:?}");
    until("each to be tried", || attempts.begun.load(Ordering::SeqCst) >= 5_001).await;
    sleep(Duration::from_secs(1)).await;
    let (most, all) = (attempts.most.load(Ordering::SeqCst), attempts.begun.load(Ordering::SeqCst));
    assert!(most <= 1_024, "{most}");
    assert!(all < 4 * 5_001, "nobody is driven off again and again: {all}");
}

/// F42: servers that are slow to be connected are connected all the same, where there are more of them than places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slow_servers_are_all_connected() {
    let attempts = Arc::<Attempts>::default();
    let counted = attempts.clone();
    let (connector, done) = (Arc::<AtomicUsize>::default(), 3_000);
    let reached = connector.clone();
    let connector = service_fn(move |_: Uri| {
        let (counted, reached) = (counted.clone(), reached.clone());
        async move {
            let attempt = Attempt::begin(&counted);
            sleep(Duration::from_millis(300)).await;
            drop(attempt);
            reached.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = tokio::io::duplex(1 << 12);
            tokio::spawn(crate::peer::speak(theirs, Script::Greet, None, Arc::default()));
            Ok::<_, io::Error>(ours)
        }
    });
    let (channel, set) = changing(builder().connector(connector));
    for number in 0..done {
        set.put(&format!("{number}"), Instance::new(format!("slow{number}:1")).unwrap());
    }
    ready(&channel, done).await;
    assert!(attempts.most.load(Ordering::SeqCst) <= 1_024);
    greeted_by(&channel).await;
}

struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}
