//! Shares of the calls: of servers that hang, fail at once, reset or panic, of different weights, and of first calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, RoundRobin};
use tonic_etcd::{BalancedChannel, Instance, Policy, ServedBy};

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, over, ready, shared};

const TWENTY: Duration = Duration::from_millis(20);
/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_millis(100);
/// A share of fewer calls says little: on a busy machine they take longer than the time that a test means to call for.
const FEWEST: usize = 200;

fn policies() -> [Arc<dyn Policy>; 2] {
    [shared(LeastRequest::new()), shared(PeakEwma::new())]
}

/// Calls with so many workers for so long, and at least [`FEWEST`] times; each caller gives up after `patience`.
async fn call(channel: &BalancedChannel, workers: usize, time: Duration, patience: Duration) {
    let end = Instant::now() + time;
    let (mut all, calls) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..workers {
        let (channel, calls) = (channel.clone(), calls.clone());
        all.spawn(async move {
            while Instant::now() < end || calls.load(Ordering::Relaxed) < FEWEST {
                let _ = timeout(patience, greet(&channel)).await; // given up, failed or not
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    all.join_all().await;
}

/// The share of one of the servers in the calls of such a time.
async fn share(channel: &BalancedChannel, one: &Peer, others: &[Peer], workers: usize, time: Duration) -> f64 {
    let count = |peers: &[&Peer]| peers.iter().map(|peer| peer.seen.calls()).sum::<usize>();
    let others: Vec<_> = others.iter().collect();
    let before = (count(&[one]), count(&others));
    call(channel, workers, time, Duration::from_secs(5)).await;
    let (own, rest) = (count(&[one]) - before.0, count(&others) - before.1);
    own as f64 / (own + rest) as f64
}

/// F35: callers give up on a server that never answers; once it is well it is back.
#[tokio::test]
async fn a_server_that_callers_give_up_on_gets_few_calls() {
    for policy in policies() {
        for workers in [1, 8] {
            let script = Arc::new(Mutex::new(Script::Silence));
            let (hung, good) = (Peer::start(Script::Now(script.clone())).await, Peer::start(Script::Greet).await);
            let channel = over(builder().policy(policy.clone()), [&hung.address, &good.address]);
            ready(&channel, 2).await;
            call(&channel, workers, Duration::from_secs(1), PATIENCE).await;
            let (given_up, answered) = (hung.seen.calls(), good.seen.calls());
            assert!(given_up > 0 && given_up * 10 <= answered, "{policy:?}, {workers}: {given_up} of {answered}");
            *script.lock().unwrap() = Script::Greet;
            sleep(Duration::from_secs(2)).await;
            let share = share(&channel, &hung, &[good], workers, Duration::from_secs(1)).await;
            assert!(share >= 0.3, "{policy:?}, {workers} workers: {share}");
        }
    }
}

/// F36, F62: one of three fails at once, with whatever code or reset, and the others take their time.
#[tokio::test]
async fn a_server_that_fails_at_once_gets_few_calls_whatever_the_code() {
    let codes = [14, 8, 16, 12, 5].map(|code| Script::Status(code, vec![]));
    let resets = [Script::Reset(h2::Reason::CANCEL), Script::Reset(h2::Reason::INTERNAL_ERROR)];
    for policy in policies() {
        let mut all = JoinSet::new();
        for fails in codes.iter().chain(&resets) {
            all.spawn(fails_at_once(policy.clone(), fails.clone()));
        }
        for (number, (little, again)) in all.join_all().await.into_iter().enumerate() {
            assert!(little <= 0.08, "{policy:?}, {number}: {little}");
            assert!(again >= 0.2, "{policy:?}, {number}, well again: {again}");
        }
    }
}

/// The share of a server that fails at once, and its share once it is well again.
async fn fails_at_once(policy: Arc<dyn Policy>, fails: Script) -> (f64, f64) {
    let well = Script::After(TWENTY, Box::new(Script::Greet));
    let script = Arc::new(Mutex::new(fails));
    let failing = Peer::start(Script::Now(script.clone())).await;
    let others = [Peer::start(well.clone()).await, Peer::start(well.clone()).await];
    let channel = over(builder().policy(policy), [&failing.address, &others[0].address, &others[1].address]);
    ready(&channel, 3).await;
    call(&channel, 8, Duration::from_millis(500), Duration::from_secs(5)).await;
    let little = share(&channel, &failing, &others, 8, Duration::from_millis(1_500)).await;
    *script.lock().unwrap() = well;
    call(&channel, 8, Duration::from_millis(2_500), Duration::from_secs(5)).await;
    let again = share(&channel, &failing, &others, 8, Duration::from_secs(1)).await;
    (little, again)
}

/// F37: weights hold with few workers as with many.
#[tokio::test]
async fn weights_hold_with_few_workers_and_with_many() {
    for policy in policies() {
        for workers in [1, 4, 32] {
            let (heavy, light) = (Peer::start(Script::Greet).await, Peer::start(Script::Greet).await);
            let (channel, set) = changing(builder().policy(policy.clone()));
            for (peer, weight) in [(&heavy, 10), (&light, 1)] {
                set.put(&peer.address.to_string(), Instance::new(peer.address).unwrap().with_weight(weight).unwrap());
            }
            ready(&channel, 2).await;
            call(&channel, workers, Duration::from_secs(1), Duration::from_secs(5)).await;
            let (few, many) = (light.seen.calls() as f64, heavy.seen.calls() as f64);
            let share = few / (few + many);
            assert!((0.03..0.25).contains(&share), "{policy:?}, {workers} workers: {share}");
        }
    }
}

/// F49: clients do not all begin with the same server, and those that stay with one do not all stay with the same.
#[tokio::test]
async fn first_calls_spread_over_the_servers() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    for policy in [shared(RoundRobin::new()), shared(PickFirst::new())] {
        let before: Vec<_> = peers.iter().map(|peer| peer.seen.calls()).collect();
        for _ in 0..60 {
            let channel = over(builder().policy(policy.clone()), peers.iter().map(|peer| &peer.address));
            ready(&channel, 3).await;
            greet(&channel).await.unwrap();
        }
        for (peer, before) in peers.iter().zip(before) {
            let calls = peer.seen.calls() - before;
            assert!((6..40).contains(&calls), "{policy:?}: {calls} of 60");
        }
    }
}

/// Panics, or takes its time.
struct Panics(bool);

#[tonic::async_trait]
impl Greeter for Panics {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if self.0 {
            std::panic::resume_unwind(Box::new("as the test wants it")); // without a word in the log
        }
        sleep(TWENTY).await;
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

/// F62: the handler of one of three stock servers panics.
#[tokio::test]
async fn a_server_whose_handlers_panic_gets_few_calls() {
    for policy in policies() {
        let mut addresses = Vec::new();
        for panics in [true, false, false] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let greeter = GreeterServer::new(Panics(panics));
            tokio::spawn(Server::builder().add_service(greeter).serve_with_incoming(TcpListenerStream::new(listener)));
        }
        let channel = over(builder().policy(policy.clone()), &addresses);
        ready(&channel, 3).await;
        call(&channel, 16, Duration::from_secs(1), Duration::from_secs(5)).await;
        let (end, mut all) = (Instant::now() + Duration::from_secs(2), JoinSet::new());
        for _ in 0..16 {
            let channel = channel.clone();
            all.spawn(async move {
                let (mut failed, mut answered) = (0, 0);
                while Instant::now() < end {
                    match greet(&channel).await {
                        Ok(response) => {
                            assert!(response.extensions().get::<ServedBy>().is_some());
                            answered += 1;
                        }
                        Err(_) => failed += 1,
                    }
                }
                (failed, answered)
            });
        }
        let (failed, answered) =
            all.join_all().await.into_iter().fold((0, 0), |sum, calls| (sum.0 + calls.0, sum.1 + calls.1));
        assert!(failed > 0 && failed * 19 <= answered, "{policy:?}: {failed} failed, {answered} answered");
    }
}
