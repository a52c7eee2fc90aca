//! Servers of different weights: has each its part of the calls?

use std::time::Duration;

use test_support::Bar;

use super::callers::{Callers, Kind};
use super::channel::{Loaded, connected, weighted};
use super::fleet::Fleet;
use super::worst::Worst;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

const WORKERS: [usize; 5] = [1, 2, 4, 8, 32];
/// From so many workers on the servers take their time. Where all cores are busy, each call takes as long as the scheduler has it, and the
/// server that is faster by that gets more calls.
const BUSY: usize = 8;
const TAKES: Duration = Duration::from_millis(1);
const WARM_UP: usize = 1_000;
const CALLS: usize = 20_000;
const LIMIT: Duration = Duration::from_secs(60);

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    for (weights, what, least, most) in [
        (&[1, 10][..], "the light one of 10 : 1", 5.0, 13.0),
        (&[1, 1, 100], "each light one of 1 : 1 : 100", 0.4, 2.0),
    ] {
        let (mut low, mut high) = (Worst::least(), Worst::most());
        for policy in Loaded::ALL {
            for workers in WORKERS {
                for share in super::block_on(light_shares(policy, workers, weights))? {
                    let variant = format!("{}, {workers} workers", policy.name());
                    low.see(share, &variant);
                    high.see(share, &variant);
                }
            }
        }
        let name = |which| format!("calls at {what}, both policies, 1, 2, 4, 8, 32 workers, {which}");
        findings.ours(&name("least"), low.tell(&name("least")), "%", Bar::AtLeast(least));
        findings.ours(&name("most"), high.tell(&name("most")), "%", Bar::AtMost(most));
    }
    Ok(())
}

/// Of each but the last, in percent.
async fn light_shares(policy: Loaded, workers: usize, weights: &[u32]) -> Result<Vec<f64>> {
    let count = weights.len() as u8; // two or three
    let takes = if workers < BUSY { Duration::ZERO } else { TAKES };
    let fleet = Fleet::start(count, Conduct::well(takes))?;
    let servers = fleet.addresses().into_iter().zip(weights.iter().copied().map(Some));
    let channel = weighted(policy.builder(), servers)?;
    connected(&channel, weights.len()).await?;
    let callers = Callers::start(&channel, workers, Kind::Unary, None);
    fleet.next(WARM_UP, Duration::ZERO, LIMIT).await?;
    let calls = fleet.next(CALLS, Duration::ZERO, LIMIT).await?;
    callers.stop().await;
    Ok((0..count - 1).map(|peer| fleet.arrivals.share(peer, calls.clone())).collect())
}
