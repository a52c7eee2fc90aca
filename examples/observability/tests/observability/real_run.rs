//! The example against a real etcd: what the dashboard and the rules name is on its page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_support::{Etcd, Process, Signal};

use crate::files::asked;
use crate::page::Page;
use crate::promql::parse;

/// Longest wait for one step; each takes well under a second, and a lease of the second server as long as it lasts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Labels that Prometheus gives itself.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

struct Program {
    process: Process,
    metrics: SocketAddr,
}

impl Program {
    /// Starts the example. Another process may take the port between the look for it and its use: then with another
    /// one.
    fn start(etcd: &Etcd) -> Self {
        for _ in 0..10 {
            let metrics = TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr()).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_observability"));
            command.args(["--etcd", &etcd.endpoint(), "--metrics", &metrics.to_string(), "--rate", "50"]);
            let process = Process::spawn(&mut command).unwrap();
            if process.wait_line(|line| line.starts_with("listening on "), PATIENCE).is_ok() {
                return Self { process, metrics };
            }
        }
        panic!("the example did not start ten times");
    }

    fn page(&self) -> Page {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        // HTTP/1.0, so that the response ends with the connection and is never chunked.
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        Page::parse(body)
    }

    /// Reads the page until nothing is missing on it.
    fn wait(&self, missing: impl Fn(&Page) -> Vec<String>) {
        let began = Instant::now();
        loop {
            let missing = missing(&self.page());
            if missing.is_empty() {
                return;
            }
            let errors = self.process.errors().join("\n");
            assert!(began.elapsed() < PATIENCE, "not on the page: {missing:#?}\n{errors}");
            sleep(Duration::from_millis(50));
        }
    }
}

fn ready_servers(page: &Page) -> f64 {
    page.sum("tonic_etcd_channel_servers", ("state", "ready"))
}

/// What the dashboard and the rules name and the page does not have.
fn missing(page: &Page) -> Vec<String> {
    let mut missing = Vec::new();
    for asked in asked() {
        let query = parse(&asked.expression);
        let mut miss = |what: String| missing.push(format!("{what}, in {}: {}", asked.by, asked.expression));
        for selector in &query.selectors {
            let name = &selector.metric;
            if page.of(name).next().is_none() {
                miss(name.clone());
                continue;
            }
            let has =
                |label: &str| OF_PROMETHEUS.contains(&label) || page.of(name).any(|one| one.labels.contains_key(label));
            let labels = selector.matchers.iter().map(|matcher| &matcher.label);
            for label in labels.chain(&query.groupings).filter(|label| !has(label)) {
                miss(format!("label {label} of {name}"));
            }
            // A state that is misspelt is 0 for ever.
            for matcher in selector.matchers.iter().filter(|matcher| matcher.label == "state") {
                for state in matcher.value.split('|') {
                    if !page.of(name).any(|one| one.labels.get("state").is_some_and(|is| is == state)) {
                        miss(format!("state {state} of {name}"));
                    }
                }
            }
        }
        // A text shows what the result has: what is grouped by, else what the series have.
        for label in asked.shown.iter().filter(|label| !OF_PROMETHEUS.contains(&label.as_str())) {
            let is_there = if query.groupings.is_empty() {
                query.selectors.iter().all(|one| page.of(&one.metric).any(|series| series.labels.contains_key(label)))
            } else {
                query.groupings.contains(label)
            };
            if !is_there {
                miss(format!("label {label} that is shown"));
            }
        }
    }
    missing
}

#[test]
fn what_the_dashboard_and_the_rules_name_is_on_the_page() {
    assert!(asked().iter().filter(|asked| !parse(&asked.expression).selectors.is_empty()).count() > 30);
    let etcd = Etcd::start();
    let (first, second) = (Program::start(&etcd), Program::start(&etcd));
    let both_ready = |page: &Page| {
        let ready = ready_servers(page);
        if ready < 2.0 { vec![format!("two ready servers: {ready}")] } else { Vec::new() }
    };
    first.wait(both_ready);
    second.wait(both_ready);

    second.process.signal(Signal::KILL);
    first.wait(missing);
    let calls = first.page().sum("grpc_client_call_duration_seconds_count", ("grpc_status", "OK"));
    assert!(calls >= 1.0);

    first.process.signal(Signal::TERM);
    assert!(first.process.wait(PATIENCE).unwrap().success());
    assert_eq!(first.process.lines().last().map(String::as_str), Some("stopped"));
}

#[test]
fn opentelemetry_gets_the_same_names() {
    let etcd = Etcd::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_observability"));
    command.args(["--etcd", &etcd.endpoint(), "--rate", "50", "--opentelemetry"]);
    let process = Process::spawn(&mut command).unwrap();
    // It prints every five seconds; the first time, nothing may have happened yet.
    for name in ["tonic_etcd.registrar.registered", "grpc.client.call.duration"] {
        process.wait_line(|line| line.contains(name), PATIENCE).unwrap();
    }
    process.signal(Signal::TERM);
    assert!(process.wait(PATIENCE).unwrap().success());
}
