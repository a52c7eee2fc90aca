//! Registrations of one registrar: what one costs to register and to leave, and how long ten thousand take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions};
use test_support::{Bar, Counts, Etcd, Result};
use tokio::task::JoinSet;
use tonic_etcd::{Instance, Registrar, Registration};

use crate::PATIENCE;
use crate::findings::{Curve, Findings};
use crate::job;

pub(crate) const NAME: &str = "registrations";

/// What each is compared with.
const FEW: usize = 100;
const COUNTS: [usize; 3] = [FEW, 1_000, MANY];
/// Whose process is what starting and ending costs.
const BASE: usize = 2;
/// How many are timed.
const MANY: usize = 10_000;
/// How many puts a raw etcd-client has in flight.
const IN_FLIGHT: usize = 64;
/// Each is timed so often, and the median counts.
const ROUNDS: usize = 3;
/// What [`Registration::deregister`] waits at most.
const DEREGISTER: Duration = Duration::from_secs(5);
/// Under valgrind a renewal may be late.
const TTL: Duration = Duration::from_secs(60);
const SERVICE: &str = "many";

pub(crate) fn rows(found: &mut Findings) {
    costs(found);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(runtime().block_on(time()));
    }
    let median = |of: fn(&Times) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    };
    let bar = Bar::AtMost(2.0);
    found.add(format!("{MANY} registrations: all in etcd, beside raw puts"), median(Times::beside_raw), "×", bar);
    found.add(format!("{MANY} registrations: all in etcd"), median(|times| times.registered), "s", None);
    let bar = Bar::AtMost(DEREGISTER.as_secs_f64());
    found.add(format!("{MANY} registrations: all left"), median(|times| times.left), "s", bar);
}

/// What a registration costs by the number of them.
fn costs(found: &mut Findings) {
    let base = count(BASE);
    let per_one = |many: usize, of: fn(&Counts) -> f64| -> Result<f64> {
        let (base, counts) = (base.as_ref().map_err(Clone::clone)?, count(many)?);
        Ok((of(&counts) - of(base)) / (many - BASE) as f64)
    };
    let mut points = Vec::new();
    for many in COUNTS {
        let cost = per_one(many, |counts| counts.instructions);
        let few = points.first().map(|(_, few)| *few);
        points.extend(cost.as_ref().ok().map(|cost| (many as f64, *cost)));
        if let Some(few) = few {
            let ratio = cost.as_ref().map(|cost| cost / few).map_err(Clone::clone);
            let name = format!("a registration's instructions, registered and left: {many} beside {FEW}");
            found.add_or_missing(name, ratio, "×", Bar::AtMost(1.5));
        }
        let name = format!("instructions a registration, {many} of them");
        found.add_or_missing(name, cost.map(|cost| cost / 1e3), "k", None);
    }
    let title = "instructions of a registration, registered and left".to_owned();
    found.draw(Curve { title, of: "registrations", unit: "instr.", points });
}

/// What a process costs that registers so many, and lets them leave.
fn count(many: usize) -> Result<Counts> {
    let etcd = Etcd::start();
    job::count(NAME, &format!("{many} {}", etcd.endpoint()))
}

/// Half of them are registered at once, and the others one by one. Half leave while the others stay, and then those leave.
pub(crate) fn job(argument: &str) {
    let (many, endpoint) = argument.split_once(' ').expect("a number and an address");
    let many: usize = many.parse().expect("a number");
    job::block_on(async {
        let registrar = Registrar::builder([endpoint]).ttl(TTL).connect_lazy().expect("a registrar");
        let mut stay = register(&registrar, 0..many / 2).await;
        let mut leave = Vec::new();
        for number in many / 2..many {
            leave.extend(register(&registrar, number..number + 1).await);
        }
        // Of those that leave, some were registered at once, and some one by one.
        stay.iter_mut().zip(&mut leave).step_by(2).for_each(|(stays, leaves)| std::mem::swap(stays, leaves));
        deregister(leave).await;
        deregister(stay).await;
    });
}

/// How long ten thousand took, in seconds.
struct Times {
    raw: f64,
    registered: f64,
    left: f64,
}

impl Times {
    fn beside_raw(&self) -> f64 {
        self.registered / self.raw
    }
}

/// The raw puts and the registrations, each in an etcd of their own.
async fn time() -> Times {
    let raw = raw_puts(&Etcd::start()).await.expect("puts");
    let etcd = Etcd::start();
    let registrar = Registrar::connect([etcd.endpoint()]).await.expect("a registrar");
    let began = Instant::now();
    let registrations = register(&registrar, 0..MANY).await;
    let registered = began.elapsed();
    let client = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let count = async || {
        let options = GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get(SERVICE, Some(options)).await.expect("a count").count()
    };
    assert_eq!(usize::try_from(count().await), Ok(MANY));
    let began = Instant::now();
    deregister(registrations).await;
    let left = began.elapsed();
    assert_eq!(count().await, 0);
    Times { raw, registered: registered.as_secs_f64(), left: left.as_secs_f64() }
}

/// The same keys and values, put under a lease by a raw etcd-client.
async fn raw_puts(etcd: &Etcd) -> std::result::Result<f64, etcd_client::Error> {
    let client = Client::connect([etcd.endpoint()], None).await?;
    let lease = client.lease_client().grant(60, None).await?.id();
    let (began, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (mut kv, next) = (client.kv_client(), next.clone());
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= MANY {
                    return Ok::<(), etcd_client::Error>(());
                }
                let address = address(number);
                let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
                kv.put(format!("{SERVICE}/{address}"), value, Some(PutOptions::new().with_lease(lease))).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.expect("a worker does not panic")?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Registers servers, and waits until all of them are in etcd.
async fn register(registrar: &Registrar, numbers: std::ops::Range<usize>) -> Vec<Registration> {
    let instance = |number| Instance::new(address(number)).expect("an address");
    let registrations: Vec<Registration> =
        numbers.map(|number| registrar.register(SERVICE, instance(number)).expect("a registration")).collect();
    for registration in &registrations {
        registration.ready(PATIENCE).await.expect("registered");
    }
    registrations
}

/// Deregisters all of them at once, and waits until they have left.
async fn deregister(registrations: Vec<Registration>) {
    let mut leaving = JoinSet::new();
    for registration in registrations {
        leaving.spawn(registration.deregister_within(PATIENCE));
    }
    while let Some(left) = leaving.join_next().await {
        left.expect("it does not panic").expect("deregistered");
    }
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}:50051", number / 256, number % 256)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}
