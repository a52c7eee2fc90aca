//! Health checks (gRFC A17) of servers with grpc-go's health service.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::{Process, Signal, go_program};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic_etcd::{BalancedChannel, ServerState, ServerStatus};

use crate::cases::fixed;
use crate::go::PATIENCE;

const CALLERS: usize = 64;
/// As long as the servers are looked at in one state.
const MEANWHILE: Duration = Duration::from_millis(300);

async fn until(channel: &BalancedChannel, state: ServerState, count: usize) {
    let is = || channel.servers().iter().filter(|server| server.state() == state).count() == count;
    let reached = async {
        while !is() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("not {count} in {state:?}: {:?}", channel.servers()));
}

fn unhealthy(channel: &BalancedChannel) -> ServerStatus {
    let mut servers = channel.servers().into_iter();
    servers.find(|server| server.state() == ServerState::Unhealthy).unwrap()
}

/// Calls until it is told to stop. Returns how many calls were answered and how many failed.
async fn call(channel: BalancedChannel, stop: Arc<AtomicBool>) -> (usize, usize) {
    let mut client = GreeterClient::new(channel);
    let (mut answered, mut failed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match client.say_hello(HelloRequest { name: "world".into() }).await {
            Ok(_) => answered += 1,
            Err(status) => {
                eprintln!("failed: {status}");
                failed += 1;
            }
        }
    }
    (answered, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_go_that_does_not_serve_gets_no_call_and_none_fails() {
    let program = tokio::task::spawn_blocking(|| go_program("./health", "health-interop")).await.unwrap().unwrap();
    let servers = [(), ()].map(|()| Process::spawn(&mut Command::new(&program)).unwrap());
    let addresses = servers.each_ref().map(|server| {
        let line = server.wait_line(|line| line.starts_with("listening on "), PATIENCE).unwrap();
        line["listening on ".len()..].to_owned()
    });
    let document = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;
    let channel = BalancedChannel::builder().service_config(document);
    let channel = channel.build_with_discovery("interop", fixed(addresses)).unwrap();
    until(&channel, ServerState::Ready, 2).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut callers: JoinSet<_> = (0..CALLERS).map(|_| call(channel.clone(), Arc::clone(&stop))).collect();
    for _ in 0..3 {
        sleep(MEANWHILE).await;
        let lines = servers[0].lines().len();
        servers[0].signal(Signal::USR1);
        until(&channel, ServerState::Unhealthy, 1).await;
        // Those that began before go on.
        while unhealthy(&channel).in_flight() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let before = unhealthy(&channel).attempts();
        sleep(MEANWHILE).await;
        assert_eq!(unhealthy(&channel).attempts(), before);
        servers[0].signal(Signal::USR2);
        let wanted = |line: &str| line.starts_with("calls ");
        eprintln!("{}", servers[0].wait_line_from(lines, wanted, PATIENCE).unwrap().1);
        until(&channel, ServerState::Ready, 2).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut failed) = (0, 0);
    while let Some(counts) = callers.join_next().await {
        let (more_answered, more_failed) = counts.unwrap();
        (answered, failed) = (answered + more_answered, failed + more_failed);
    }
    assert!(answered > CALLERS && failed == 0, "{answered} answered, {failed} failed");
}
