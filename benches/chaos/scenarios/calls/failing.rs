//! One server that fails at once, which makes it the fastest of all: how many of the calls does it get?

use std::time::Duration;

use test_support::Bar;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

use super::callers::{Callers, Kind};
use super::channel::{Loaded, tonic};
use super::fleet::Fleet;
use super::worst::Worst;
use crate::findings::Findings;
use crate::peer::conduct::{Conduct, Fault};
use crate::world::{Result, World};

const CODES: [Code; 5] =
    [Code::Unavailable, Code::ResourceExhausted, Code::Unauthenticated, Code::Unimplemented, Code::NotFound];
const FEW: usize = 8;
const SOME: usize = 32;
const MANY: usize = 512;
const ANSWER: Duration = Duration::from_millis(20);
/// How long it may take until a server's failing is known, and until its being well is.
const KNOWN: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(3);
const CALLS: usize = 10_000;
/// For the share of a server that is well again.
const CALLS_AGAIN: usize = 1_000;
const LEAST_AGAIN: Duration = Duration::from_secs(2);
const LEAST: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
struct Variant {
    policy: Loaded,
    workers: usize,
    fault: Fault,
    kind: Kind,
    answer: Duration,
    /// Whether it is to be well again afterwards, and whether the servers are to fail some of their calls then.
    again: bool,
    partly: bool,
}

/// Of the failing one, in percent, where nothing else is said.
struct Found {
    variant: Variant,
    failing: f64,
    again: Option<f64>,
    /// Each server's, while each fails 30 % of its calls.
    thirty: Vec<f64>,
    half: Option<f64>,
}

pub(in crate::scenarios) fn codes(_world: &World, findings: &mut Findings) -> Result<()> {
    let found = super::block_on(all_codes())?;
    let usual = |found: &&Found| found.variant.answer == ANSWER;
    for policy in Loaded::ALL {
        for workers in [FEW, SOME, MANY] {
            let these = found.iter().filter(usual);
            let these = these.filter(|found| found.variant.policy == policy && found.variant.workers == workers);
            let name = format!("calls at the failing one, 5 codes, {}, {workers} workers, most", policy.name());
            most(findings, &name, these.map(|found| (found.variant, found.failing)), 5.0);
        }
    }
    let others = found.iter().filter(|found| !usual(found)).map(|found| (found.variant, found.failing));
    most(findings, "calls at the failing one, calls of 0.2 and 50 ms, both policies, 32 workers, most", others, 5.0);
    let again = found.iter().filter_map(|found| Some((found.variant, found.again?)));
    least(findings, "calls at it 3 s after it is well again, all of these, least", again, 25.0);
    let thirty = || found.iter().flat_map(|found| found.thirty.iter().map(|share| (found.variant, *share)));
    least(findings, "calls at each while all fail 30 %, both policies, 8, 32, 512 workers, least", thirty(), 28.0);
    most(findings, "calls at each while all fail 30 %, both policies, 8, 32, 512 workers, most", thirty(), 39.0);
    let half = found.iter().filter_map(|found| Some((found.variant, found.half?)));
    most(findings, "calls at the one that fails half, both policies, 8, 32, 512 workers, most", half, 35.0);
    let beside = super::block_on(tonics(Fault::Status(Code::Unavailable)))?;
    findings.tonic("calls at the failing one, UNAVAILABLE, 32 workers", beside, "%");
    Ok(())
}

pub(in crate::scenarios) fn panics(_world: &World, findings: &mut Findings) -> Result<()> {
    let found = super::block_on(all_panics())?;
    for kind in [Kind::Unary, Kind::Stream] {
        let these = found.iter().filter(|found| found.variant.kind == kind);
        let these = these.map(|found| (found.variant, found.failing));
        let name = format!("{kind:?} calls at the panicking one, both policies, 8, 32, 512 workers, most");
        most(findings, &name, these, 5.0);
    }
    let again = found.iter().filter_map(|found| Some((found.variant, found.again?)));
    least(findings, "calls at it 3 s after it is well again, all of these, least", again, 25.0);
    let beside = super::block_on(tonics(Fault::Panic))?;
    findings.tonic("Unary calls at the panicking one, 32 workers", beside, "%");
    Ok(())
}

fn most(findings: &mut Findings, name: &str, shares: impl Iterator<Item = (Variant, f64)>, bar: f64) {
    let mut worst = Worst::most();
    shares.for_each(|(variant, share)| worst.see(share, &variant.name()));
    findings.ours(name, worst.tell(name), "%", Bar::AtMost(bar));
}

fn least(findings: &mut Findings, name: &str, shares: impl Iterator<Item = (Variant, f64)>, bar: f64) {
    let mut worst = Worst::least();
    shares.for_each(|(variant, share)| worst.see(share, &variant.name()));
    findings.ours(name, worst.tell(name), "%", Bar::AtLeast(bar));
}

async fn all_codes() -> Result<Vec<Found>> {
    let variant =
        |policy, workers, code| Variant { partly: true, ..Variant::new(policy, workers, Fault::Status(code)) };
    let all = |workers| Loaded::ALL.iter().flat_map(move |policy| CODES.map(|code| variant(*policy, workers, code)));
    let other = |policy, micros| {
        let usual = Variant::new(policy, SOME, Fault::Status(Code::ResourceExhausted));
        Variant { answer: Duration::from_micros(micros), ..usual }
    };
    let slow = Loaded::ALL.map(|policy| other(policy, 50_000));
    // Those of few workers take long, and do little: side by side.
    let few = side_by_side(all(FEW).chain(slow));
    let mut found = Vec::new();
    for policy in Loaded::ALL {
        let some = all(SOME).filter(|variant| variant.policy == policy);
        found.extend(ended(side_by_side(some)).await?);
    }
    found.extend(ended(few).await?);
    for variant in all(MANY) {
        // The rest of the other codes costs time, and says no more.
        let whole = matches!(variant.fault, Fault::Status(Code::Unavailable | Code::ResourceExhausted));
        found.push(measure(Variant { again: whole, partly: whole, ..variant }).await?);
    }
    for policy in Loaded::ALL {
        found.push(measure(other(policy, 200)).await?);
    }
    Ok(found)
}

async fn all_panics() -> Result<Vec<Found>> {
    let kinds = |policy, workers| {
        [Kind::Unary, Kind::Stream].map(|kind| Variant { kind, ..Variant::new(policy, workers, Fault::Panic) })
    };
    let all = |workers| Loaded::ALL.iter().flat_map(move |policy| kinds(*policy, workers));
    let mut found = ended(side_by_side(all(FEW).chain(all(SOME)))).await?;
    for variant in all(MANY) {
        found.push(measure(Variant { again: false, ..variant }).await?);
    }
    Ok(found)
}

fn side_by_side(variants: impl Iterator<Item = Variant>) -> JoinSet<std::result::Result<Found, String>> {
    variants.map(|variant| async move { measure(variant).await.map_err(|error| error.to_string()) }).collect()
}

async fn ended(mut measuring: JoinSet<std::result::Result<Found, String>>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    while let Some(measured) = measuring.join_next().await {
        found.push(measured??);
    }
    Ok(found)
}

async fn measure(variant: Variant) -> Result<Found> {
    let well = Conduct::well(variant.answer);
    let fleet = Fleet::start(3, well)?;
    let channel = fleet.ours(variant.policy.builder()).await?;
    fleet.peers[0].switch.set(well.but(variant.fault));
    let callers = Callers::start(&channel, variant.workers, variant.kind, None);
    sleep(KNOWN).await;
    let failing = fleet.share_of_first(fleet.next(CALLS, LEAST, LIMIT).await?);
    let (mut again, mut thirty, mut half) = (None, Vec::new(), None);
    if variant.again {
        fleet.all(well);
        sleep(AGAIN).await;
        again = Some(fleet.share_of_first(fleet.next(CALLS_AGAIN, LEAST_AGAIN, LIMIT).await?));
    }
    if variant.partly {
        fleet.all(well.but_some(variant.fault, 30));
        sleep(KNOWN).await;
        let calls = fleet.next(CALLS, LEAST, LIMIT).await?;
        thirty = (0..3).map(|peer| fleet.arrivals.share(peer, calls.clone())).collect();
        fleet.all(well);
        sleep(KNOWN).await;
        fleet.peers[0].switch.set(well.but_some(variant.fault, 50));
        sleep(KNOWN).await;
        half = Some(fleet.share_of_first(fleet.next(CALLS, LEAST, LIMIT).await?));
    }
    callers.stop().await;
    Ok(Found { variant, failing, again, thirty, half })
}

async fn tonics(fault: Fault) -> Result<f64> {
    let well = Conduct::well(ANSWER);
    let fleet = Fleet::start(3, well)?;
    fleet.peers[0].switch.set(well.but(fault));
    let channel = tonic(&fleet.addresses())?;
    let callers = Callers::start(&channel, SOME, Kind::Unary, None);
    sleep(KNOWN).await;
    let share = fleet.share_of_first(fleet.next(CALLS, LEAST, LIMIT).await?);
    callers.stop().await;
    Ok(share)
}

impl Variant {
    fn new(policy: Loaded, workers: usize, fault: Fault) -> Self {
        Self { policy, workers, fault, kind: Kind::Unary, answer: ANSWER, again: true, partly: false }
    }

    fn name(self) -> String {
        let Self { policy, workers, fault, kind, answer, .. } = self;
        format!("{}, {workers} workers, {fault:?}, {kind:?} calls of {answer:?}", policy.name())
    }
}
