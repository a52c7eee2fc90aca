//! Quiet services of one resolver: what they ask of etcd, and what a resolution holds of memory.

use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use test_support::{Bar, Etcd};
use tonic_etcd::{Resolution, Resolver};

use crate::PATIENCE;
use crate::findings::{Curve, Findings};
use crate::heap;
use crate::lapse::Lapse;

const COUNTS: [usize; 3] = [10, 100, 1_000];
/// Everything is read again after 5 to 10 minutes, in this time twice or three times.
const QUIET: Duration = Duration::from_secs(1_200);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn rows(found: &mut Findings) {
    let (mut requests, mut memory, mut most_in_a_minute) = (Vec::new(), Vec::new(), 0.0);
    for services in COUNTS {
        let seen = watch(services);
        most_in_a_minute = seen.most_in_a_minute;
        requests.push((services as f64, seen.requests / QUIET.as_secs_f64()));
        memory.push((services as f64, seen.bytes / services as f64));
    }
    let most = COUNTS[COUNTS.len() - 1];
    let (_, a_second) = requests[requests.len() - 1];
    found.add(format!("{most} quiet services, requests to etcd"), a_second, "/s", Bar::AtMost(4.0));
    let busiest = most_in_a_minute / MINUTE.as_secs_f64();
    found.add(format!("{most} quiet services, requests to etcd in the busiest minute"), busiest, "/s", None);
    let (_, bytes) = memory[memory.len() - 1];
    found.add(format!("{most} quiet services, memory held for each"), bytes / 1e3, "KB", None);
    let curve = |title: &str, unit, points| Curve { title: title.to_owned(), of: "services", unit, points };
    found.draw(curve("requests a second to etcd, all services quiet", "/s", requests));
    found.draw(curve("memory held for a quiet service", "bytes", memory));
}

/// What is seen of some quiet services.
struct Seen {
    /// Requests in [`QUIET`].
    requests: f64,
    /// Requests in the minute that had the most.
    most_in_a_minute: f64,
    /// Memory that is held for all of them.
    bytes: f64,
}

/// Watches some services for the time, which passes faster than it seems.
fn watch(services: usize) -> Seen {
    let etcd = Etcd::start();
    Lapse::run(async |lapse| {
        put(&etcd, services).await;
        let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
        let _warm = resolve(&resolver, "warm").await;
        let _profiler = heap::profiler();
        let before = heap::held_when_settled().await;
        let mut resolutions = Vec::with_capacity(services);
        for number in 0..services {
            resolutions.push(resolver.resolve(name(number)).expect("a resolution"));
        }
        for resolution in &resolutions {
            assert_eq!(resolution.ready(PATIENCE).await.expect("resolved").len(), 1);
        }
        let bytes = heap::held_when_settled().await - before;
        let (began, mut last, mut most_in_a_minute) = (received(&etcd), received(&etcd), 0.0);
        for _ in 0..QUIET.as_secs() / MINUTE.as_secs() {
            lapse.pass(MINUTE, &etcd).await;
            let now = received(&etcd);
            most_in_a_minute = f64::max(most_in_a_minute, now - last);
            last = now;
        }
        Seen { requests: last - began, most_in_a_minute, bytes }
    })
}

async fn resolve(resolver: &Resolver, service: &str) -> Resolution {
    let resolution = resolver.resolve(service).expect("a resolution");
    resolution.ready(PATIENCE).await.expect("resolved");
    resolution
}

fn name(number: usize) -> String {
    format!("quiet{number}")
}

/// An instance for each service.
async fn put(etcd: &Etcd, services: usize) {
    let client = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let numbers: Vec<usize> = (0..services).collect();
    for chunk in numbers.chunks(100) {
        let puts = chunk.iter().map(|number| TxnOp::put(format!("{}/1", name(*number)), "10.0.0.1:5", None));
        client.kv_client().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.expect("puts");
    }
}

/// The messages that etcd has received of its clients so far: requests of their own, and requests on streams.
fn received(etcd: &Etcd) -> f64 {
    etcd.metric("grpc_server_msg_received_total").expect("etcd counts messages")
}
