//! F7: the network holds puts, their registrations leave, and the puts arrive.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, EventType, GetOptions, WatchOptions};
use test_support::{Bar, Etcd, FrameProxy, Rule};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_etcd::{Instance, Registrar};

use crate::findings::Findings;
use crate::world::{Result, World};

const TRIES: usize = 200;
const AT_ONCE: usize = 20;
/// How long a put is held: a step for each try.
const HELD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));
/// Fewer arrivals after a leave show nothing.
const ENOUGH: f64 = 150.0;
const OTHERS: [&str; 3] = ["h:1", "h:2", "h:3"];
const PATIENCE: Duration = Duration::from_secs(30);

/// What is seen of the keys from aside.
#[derive(Default)]
struct Seen {
    others_gone: usize,
    late_puts: usize,
    left: BTreeSet<String>,
}

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(async {
        let etcd = Etcd::start();
        let client = Client::connect([etcd.endpoint()], None).await?;
        let proxy = FrameProxy::to(etcd.address());
        let registrar = Registrar::connect_lazy([proxy.endpoint()])?;
        let mut others = Vec::new();
        for address in OTHERS {
            let other = registrar.register("kept", Instance::new(address)?)?;
            other.ready(PATIENCE).await?;
            others.push(other);
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looks = tokio::spawn(watch(client.clone(), seen.clone()));
        // Each at a different moment; spread over the rounds, so that each of them has short and long ones.
        let step = HELD.1.saturating_sub(HELD.0) / TRIES as u32;
        let held = |number: usize| HELD.0 + step * number as u32;
        let (mut left, mut failed, mut slowest) = (Vec::new(), 0, Duration::ZERO);
        for round in 0..TRIES / AT_ONCE {
            let mut leaving = JoinSet::new();
            let numbers = (0..AT_ONCE).map(|one| one * (TRIES / AT_ONCE) + round);
            let mut registrations = Vec::new();
            for number in numbers {
                let address = format!("late:{}", 1_000 + number);
                proxy.rule(Rule::delay(held(number)).requests().containing(format!("\"Addr\":\"{address}\"")));
                registrations.push((address.clone(), registrar.register("kept", Instance::new(address)?)?));
            }
            // Until the puts are on their way.
            sleep(Duration::from_millis(80)).await;
            for (number, (address, registration)) in registrations.into_iter().enumerate() {
                let seen = seen.clone();
                leaving.spawn(async move {
                    let began = Instant::now();
                    // A pause is a leave too.
                    let done = if number.is_multiple_of(4) {
                        registration.pause();
                        let paused = registration.paused(PATIENCE).await;
                        drop(registration);
                        paused
                    } else {
                        registration.deregister_within(PATIENCE).await
                    };
                    let took = began.elapsed();
                    seen.lock().unwrap_or_else(PoisonError::into_inner).left.insert(format!("kept/{address}"));
                    (address, began, took, done.is_ok())
                });
            }
            while let Some(gone) = leaving.join_next().await {
                let (address, began, took, well) = gone?;
                (slowest, failed) = (slowest.max(took), failed + usize::from(!well));
                left.push((address, began));
            }
        }
        sleep(HELD.1 + Duration::from_secs(2)).await;
        let late = proxy.late();
        let arrived = left.iter().filter(|(address, began)| {
            let mut of = late.iter().filter(|late| contains(&late.message, address));
            of.any(|late| late.at > *began)
        });
        findings.ours("puts that reached etcd after the leave", arrived.count() as f64, "", Bar::AtLeast(ENOUGH));
        let there = client.kv_client().get("kept/", Some(GetOptions::new().with_prefix().with_keys_only())).await?;
        let stand = there.kvs().len().abs_diff(OTHERS.len());
        findings.ours("keys that stand 1 s after the last arrival", stand as f64, "", Bar::Equal(0.0));
        looks.abort();
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        findings.ours("keys of other registrations gone, times", seen.others_gone as f64, "", Bar::Equal(0.0));
        findings.ours("puts done after the leave was, as watched", seen.late_puts as f64, "", Bar::Equal(0.0));
        findings.ours("leaves not done in 30 s", f64::from(u32::try_from(failed)?), "", Bar::Equal(0.0));
        findings.ours("slowest leave", slowest.as_secs_f64() * 1e3, "ms", None);
        let refused = r#"grpc_code="NotFound",grpc_method="Txn""#;
        let refused = etcd.metric_with("grpc_server_handled_total", refused).unwrap_or_default();
        findings.ours("puts that etcd refused because their lease had gone", refused, "", None);
        let leases = etcd.metric("etcd_debugging_lease_granted_total").unwrap_or(f64::NAN);
        findings.ours("leases granted", leases, "", None);
        let others_stand = others.iter().filter(|other| other.is_registered()).count();
        findings.ours("other registrations that stand", others_stand as f64, "", Bar::Equal(OTHERS.len() as f64));
        Ok(())
    })
}

/// Counts from aside what may not happen.
async fn watch(client: Client, seen: Arc<Mutex<Seen>>) -> std::result::Result<(), etcd_client::Error> {
    let mut events = client.watch_client().watch("kept/", Some(WatchOptions::new().with_prefix())).await?;
    while let Some(message) = events.message().await? {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for event in message.events() {
            let Some(key) = event.kv().and_then(|pair| pair.key_str().ok()) else { continue };
            let is_other = OTHERS.iter().any(|other| key.strip_prefix("kept/") == Some(other));
            match event.event_type() {
                EventType::Delete => seen.others_gone += usize::from(is_other),
                EventType::Put => seen.late_puts += usize::from(seen.left.contains(key)),
            }
        }
    }
    Ok(())
}

fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}
