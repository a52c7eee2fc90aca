//! What it costs a client that its metrics go to Prometheus: `cargo xtask bench metrics`.
//!
//! A client process calls three servers without metrics, then one with this crate and an exporter. Instructions are
//! counted by valgrind's callgrind, with one page rendered in 10 000 calls: a client makes about so many in a second, and
//! so often Prometheus reads at most. They have the bars.
//!
//! The processor's time for a call is measured too, with a page that is read once a second. Both sides alternate, and the
//! row is the median of the ratios of all rounds. It has no bar: on a busy machine it varies by more than a tenth.
#![allow(clippy::disallowed_types)] // real time is meant

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use test_support::{Bar, Process, Report, callgrind, short_and_long};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, Instance, ServerState};
use tonic_etcd_metrics::MetricsRecorder;
use tower::discover::Change;

const ROUNDS: usize = 7;
/// Calls between two pages, where instructions are counted.
const CALLS_A_PAGE: u64 = 10_000;
/// Before anything is taken, and what is taken: a page is read three times in it.
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
const WITHOUT: &str = "without";
/// Stands on a page that has numbers of calls.
const COUNT: &str = "grpc_client_call_duration_seconds_count{";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let one_thread = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match arguments[..] {
        ["server"] => one_thread().block_on(serve()),
        ["client", page, workers, ref servers @ ..] => runtime().block_on(client(page, number(workers), servers)),
        ["counted", side, workers, calls, ref servers @ ..] => {
            one_thread().block_on(counted(side != WITHOUT, number(workers), calls.parse().expect("a number"), servers));
        }
        _ => return report(),
    }
    ExitCode::SUCCESS
}

fn myself(arguments: &[&str]) -> Process {
    let program = std::env::current_exe().expect("the path of this program");
    Process::spawn(Command::new(program).args(arguments)).expect("this program runs")
}

fn report() -> ExitCode {
    let servers = myself(&["server"]);
    let addresses = servers.wait_line(|_| true, PATIENCE).expect("the servers' addresses");
    let addresses: Vec<&str> = addresses.split(' ').collect();
    let mut report = Report::new("a call with metrics for Prometheus, beside one without");
    for (workers, short, long) in [("1", 1_000, 1_000 + CALLS_A_PAGE), ("64", 20, 20 + CALLS_A_PAGE / 64)] {
        let count = |side| instructions(side, workers, (short, long), &addresses);
        let (with, without) = match (count("with"), count(WITHOUT)) {
            (Ok(with), Ok(without)) => (with, without),
            (with, without) => {
                for error in [with, without].into_iter().filter_map(Result::err) {
                    eprintln!("{workers} workers: {error}");
                }
                (f64::NAN, f64::NAN) // no bar holds
            }
        };
        let name = format!("3 servers, {workers} workers, client instructions");
        report.add(format!("{name}, with metrics"), with, "/call", None);
        report.add(format!("{name}, without"), without, "/call", None);
        report.add(format!("{name}, with metrics / without"), with / without, "×", Bar::AtMost(1.10));
    }
    for workers in ["1", "64"] {
        let rounds: Vec<[f64; 2]> = (0..ROUNDS)
            .map(|round| {
                let first = measure(round % 2 == 0, workers, &addresses);
                let second = measure(round % 2 == 1, workers, &addresses);
                if round % 2 == 0 { [first, second] } else { [second, first] }
            })
            .collect();
        let name = format!("3 servers, {workers} workers, client CPU");
        let of = |figure: fn(&[f64; 2]) -> f64| median(rounds.iter().map(figure).collect());
        report.add(format!("{name}, with metrics"), of(|round| round[0]), "µs/call", None);
        report.add(format!("{name}, without"), of(|round| round[1]), "µs/call", None);
        let ratio = of(|round| round[0] / round[1]);
        report.add(format!("{name}, with metrics / without"), ratio, "×", None);
    }
    report.finish()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The instructions of a call: the difference of two run lengths, so that the start falls out.
fn instructions(side: &str, workers: &str, lengths: (u64, u64), servers: &[&str]) -> test_support::Result<f64> {
    let program = std::env::current_exe().expect("the path of this program");
    let run = |calls: u64| {
        callgrind(|mut valgrind| {
            valgrind.arg(&program).args(["counted", side, workers, &calls.to_string()]).args(servers);
            valgrind
        })
    };
    let (short, long) = short_and_long(lengths.0, lengths.1, run)?;
    let calls = (lengths.1 - lengths.0) * workers.parse::<u64>().expect("a number");
    Ok((long.instructions - short.instructions) / calls as f64)
}

/// One client process: the processor's time for a call, in microseconds. Its page is read once a second meanwhile.
fn measure(with_metrics: bool, workers: &str, servers: &[&str]) -> f64 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr()).expect("a free port");
    let page = if with_metrics { free.to_string() } else { WITHOUT.to_owned() };
    let client = myself(&[&["client", &page, workers], servers].concat());
    client.wait_line(|line| line == "measuring", PATIENCE).expect("a client that is warm");
    let mut pages = 0;
    while client.status().is_none() && client.lines().len() < 2 {
        let next = Instant::now() + Duration::from_secs(1);
        if with_metrics {
            assert!(read_page(free).contains(COUNT));
            pages += 1;
        }
        while Instant::now() < next && client.lines().len() < 2 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(!with_metrics || pages >= 2, "the page was read {pages} times");
    client.wait_line(|line| line != "measuring", PATIENCE).expect("a client's figure").parse().expect("a number")
}

fn read_page(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("an exporter that listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    page
}

/// An exporter, with the bounds of this crate's histograms.
fn exporter() -> PrometheusBuilder {
    tonic_etcd_metrics::buckets().fold(PrometheusBuilder::new(), |exporter, (name, bounds)| {
        exporter.set_buckets_for_metric(Matcher::Full(name), bounds).expect("bounds")
    })
}

/// A channel with three connected servers.
async fn channel(with_metrics: bool, servers: &[&str]) -> BalancedChannel {
    let changes: Vec<_> = servers
        .iter()
        .map(|address| {
            let instance = Instance::new(*address).expect("an address");
            Ok::<_, Infallible>(Change::Insert((*address).to_owned(), instance))
        })
        .collect();
    let mut builder = BalancedChannel::builder();
    if with_metrics {
        builder = builder.metrics(MetricsRecorder::new());
    }
    let channel = builder.build_with_discovery("greeter", tokio_stream::iter(changes)).expect("a runtime");
    let is_ready = || channel.servers().iter().filter(|server| server.state() == ServerState::Ready).count();
    while is_ready() < servers.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    channel
}

/// Measures its time, says it, and then waits for its end: its page must be there as long as somebody may read it.
async fn client(page: &str, workers: usize, servers: &[&str]) {
    if page != WITHOUT {
        let exporter = exporter().with_http_listener(page.parse::<SocketAddr>().expect("an address"));
        exporter.install().expect("no other exporter");
    }
    let channel = channel(page != WITHOUT, servers).await;
    load(&channel, workers, WARM_UP).await;
    println!("measuring");
    let before = test_support::cpu_time();
    let done = load(&channel, workers, RUN).await;
    let cpu = test_support::cpu_time().saturating_sub(before);
    println!("{}", cpu.as_secs_f64() * 1e6 / done as f64);
    std::future::pending::<()>().await;
}

/// Makes so many calls by each worker, and renders a page after each ten thousand of them all.
async fn counted(with_metrics: bool, workers: usize, calls: u64, servers: &[&str]) {
    let page = with_metrics.then(|| Arc::new(exporter().install_recorder().expect("no other exporter")));
    let channel = channel(with_metrics, servers).await;
    let (mut running, made) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..workers {
        let (mut greeter, page, made) = (GreeterClient::new(channel.clone()), page.clone(), made.clone());
        running.spawn(async move {
            for _ in 0..calls {
                greeter.say_hello(HelloRequest { name: "world".to_owned() }).await.expect("an answer");
                let is_due = (made.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CALLS_A_PAGE);
                if let Some(page) = page.as_ref().filter(|_| is_due) {
                    assert!(page.render().contains(COUNT));
                }
            }
        });
    }
    running.join_all().await;
}

/// Calls in closed loops, and returns how many were answered.
async fn load(channel: &BalancedChannel, workers: usize, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let mut greeter = GreeterClient::new(channel.clone());
        running.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                greeter.say_hello(HelloRequest { name: "world".to_owned() }).await.expect("an answer");
                done += 1;
            }
            done
        });
    }
    running.join_all().await.into_iter().sum()
}

struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }
}

/// Three servers, until the process is killed. Their addresses stand in one line on stdout.
async fn serve() {
    let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
    for _ in 0..3 {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port").with_nodelay(Some(true));
        addresses.push(incoming.local_addr().expect("an address").to_string());
        let router = Server::builder().add_service(GreeterServer::new(MyGreeter));
        servers.spawn(router.serve_with_incoming(incoming));
    }
    println!("{}", addresses.join(" "));
    servers.join_all().await;
}
