//! Callers that give up, by dropping the call, on a server that never answers: how often is it called again?

use std::time::{Duration, Instant};

use test_support::Bar;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::callers::{Callers, Kind};
use super::channel::{Loaded, tonic};
use super::fleet::Fleet;
use super::worst::Worst;
use crate::findings::Findings;
use crate::peer::conduct::{Conduct, Fault};
use crate::world::{Result, World};

/// How long the good one takes, in microseconds.
const GOOD: [u64; 3] = [200, 5_000, 50_000];
const WORKERS: [usize; 3] = [1, 8, 64];
/// The last call that counts.
const LAST: usize = 1_000;
const LEAST_PATIENCE: Duration = Duration::from_millis(20);
/// When half of the calls should be its own again, and by how many calls that is judged.
const AGAIN: Duration = Duration::from_secs(3);
const CALLS_AGAIN: usize = 250;
const LIMIT: Duration = Duration::from_secs(150);
/// How often a variant is measured at most.
const RUNS: usize = 5;

#[derive(Clone, Copy)]
struct Variant {
    policy: Loaded,
    good: Duration,
    workers: usize,
}

/// Of the hung one, in percent.
struct Found {
    variant: Variant,
    share: f64,
    again: f64,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let found = super::block_on(all())?;
    for (good, what, bar) in [(200, "0.2 ms", 1.0), (5_000, "5 ms", 10.0), (50_000, "50 ms", 10.0)] {
        let mut worst = Worst::most();
        for found in found.iter().filter(|found| found.variant.good == Duration::from_micros(good)) {
            worst.see(found.share, &found.variant.name());
        }
        let name = format!("calls at the hung one, the good one takes {what}, both policies, 1, 8, 64 workers, most");
        findings.ours(&name, worst.tell(&name), "%", Bar::AtMost(bar));
    }
    let mut worst = Worst::least();
    for found in &found {
        worst.see(found.again, &found.variant.name());
    }
    let name = "calls at it 3 s after it is well again, all of these, least";
    findings.ours(name, worst.tell(name), "%", Bar::AtLeast(40.0));
    let beside = super::block_on(tonics(Duration::from_millis(5), 8))?;
    findings.tonic("calls at the hung one, the good one takes 5 ms, 8 workers", beside, "%");
    Ok(())
}

/// Those that do little are measured side by side, the others one after another meanwhile.
async fn all() -> Result<Vec<Found>> {
    let variant = |policy, good, workers| Variant { policy, good: Duration::from_micros(good), workers };
    let ours = Loaded::ALL.into_iter();
    let all = ours.flat_map(|policy| GOOD.map(|good| WORKERS.map(|workers| variant(policy, good, workers))));
    let (idle, busy): (Vec<_>, Vec<_>) = all.flatten().partition(|variant| variant.calls_per_second() < 1_000);
    let mut side_by_side = JoinSet::new();
    for variant in idle {
        side_by_side.spawn(async move { measure(variant).await.map_err(|error| error.to_string()) });
    }
    let mut found = Vec::new();
    for variant in busy {
        found.push(measure(variant).await?);
    }
    while let Some(measured) = side_by_side.join_next().await {
        found.push(measured??);
    }
    Ok(found)
}

/// Again where the machine did not let the good one be good: callers that wait for half of their patience give up on it as well.
async fn measure(variant: Variant) -> Result<Found> {
    let mut runs = 1;
    loop {
        let (found, slowest) = measure_once(variant).await?;
        if slowest < variant.patience() / 2 + variant.good || runs == RUNS {
            return Ok(found);
        }
        runs += 1;
        eprintln!("  {}: a call of the good one took {slowest:?}: again", variant.name());
    }
}

async fn measure_once(variant: Variant) -> Result<(Found, Duration)> {
    let well = Conduct::well(variant.good);
    let fleet = Fleet::start(2, well)?;
    let channel = fleet.ours(variant.policy.builder()).await?;
    fleet.peers[0].switch.set(well.but(Fault::Silence));
    let callers = Callers::start(&channel, variant.workers, Kind::Unary, Some(variant.patience()));
    let share = share_of_hung(&fleet, variant.workers).await?;
    let slowest = callers.slowest();
    fleet.all(well);
    sleep(AGAIN).await;
    let again = fleet.next(CALLS_AGAIN, Duration::from_millis(500), LIMIT).await?;
    callers.stop().await;
    Ok((Found { variant, share, again: fleet.share_of_first(again) }, slowest))
}

/// Ends sooner where it is known that more than a tenth of the calls will be its own: they take long.
async fn share_of_hung(fleet: &Fleet, workers: usize) -> Result<f64> {
    let (first, began) = (20 + 2 * workers, Instant::now());
    loop {
        sleep(Duration::from_millis(2)).await;
        let now = fleet.arrivals.count().min(LAST);
        let calls = first..now.max(first);
        let (share, part) = (fleet.share_of_first(calls.clone()), calls.len() as f64 / (LAST - first) as f64);
        if now == LAST || share * part > 10.0 {
            return Ok(share);
        }
        if began.elapsed() > LIMIT {
            return Err(format!("{now} of {LAST} calls have arrived within {LIMIT:?}").into());
        }
    }
}

async fn tonics(good: Duration, workers: usize) -> Result<f64> {
    let variant = Variant { policy: Loaded::LeastRequest, good, workers };
    let fleet = Fleet::start(2, Conduct::well(good))?;
    fleet.peers[0].switch.set(Conduct::default().but(Fault::Silence));
    let channel = tonic(&fleet.addresses())?;
    let callers = Callers::start(&channel, workers, Kind::Unary, Some(variant.patience()));
    let share = share_of_hung(&fleet, workers).await?;
    callers.stop().await;
    Ok(share)
}

impl Variant {
    fn patience(self) -> Duration {
        LEAST_PATIENCE.max(2 * self.good)
    }

    /// At most.
    fn calls_per_second(self) -> u128 {
        self.workers as u128 * 1_000_000 / self.good.as_micros()
    }

    fn name(self) -> String {
        format!("{}, {:?}, {} workers", self.policy.name(), self.good, self.workers)
    }
}
