//! Each thing that can go wrong, one by one, and many of them in a row.

use std::time::Duration;

use test_support::Bar;
use tokio::time::sleep;

use super::stage::{Fault, Stage};
use crate::findings::Findings;
use crate::world::{Result, World};

const STEPS: usize = 50;
/// Between two faults in a row.
const PAUSE: Duration = Duration::from_secs(1);

pub(in crate::scenarios) fn one_by_one(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(async {
        let mut stage = Box::pin(Stage::start(world)).await?;
        for fault in Fault::ALL {
            let repaired = match Box::pin(stage.inflict(fault)).await {
                Ok(since) => stage.repaired(since).await,
                Err(error) => Err(error),
            };
            match repaired {
                Ok(ms) => findings.ours(fault.about(), ms, "ms", Bar::AtMost(fault.bar())),
                Err(error) => findings.missing(fault.about(), error.to_string()),
            }
            stage.keeps().await?;
            stage.protect().await?;
        }
        judge(&mut stage, findings).await
    })
}

pub(in crate::scenarios) fn in_a_row(world: &World, findings: &mut Findings) -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = Random(seed.unwrap_or_else(|| std::process::id().into()));
    eprintln!("  SEED={}", random.0);
    world.block_on(async {
        let mut stage = Box::pin(Stage::start(world)).await?;
        let (mut by_hand, mut outage) = (0.0_f64, 0.0_f64);
        for step in 1..=STEPS {
            let fault = Fault::ALL[random.below(Fault::ALL.len() as u64) as usize];
            let since = Box::pin(stage.inflict(fault)).await;
            let ms = match since {
                Ok(since) => stage.repaired(since).await,
                Err(error) => Err(error),
            };
            let ms = ms.map_err(|error| format!("step {step}, {}: {error}", fault.about()))?;
            eprintln!("  {step:2}. {}: {ms:.0} ms", fault.about());
            if ms > fault.bar() {
                eprintln!("{}", stage.said());
            }
            let slowest = if fault.bar() < 1_000.0 { &mut by_hand } else { &mut outage };
            *slowest = slowest.max(ms);
            if matches!(fault, Fault::Wiped | Fault::Restored) {
                stage.protect().await?;
            }
            // What is done by hand is told by a watch, which has a second to be there again as everything else.
            sleep(PAUSE).await;
        }
        findings.ours("faults in a row", STEPS as f64, "", None);
        findings.ours("slowest repair after an outage", outage, "ms", Bar::AtMost(1_000.0));
        findings.ours("slowest repair of what was done by hand", by_hand, "ms", Bar::AtMost(200.0));
        stage.keeps().await?;
        judge(&mut stage, findings).await
    })
}

/// What must hold whatever was done.
async fn judge(stage: &mut Stage, findings: &mut Findings) -> Result<()> {
    findings.ours("keys beside the one, ever", stage.doubled as f64, "", Bar::Equal(0.0));
    findings.ours("times it was gone where nothing forced it", stage.gaps as f64, "", Bar::Equal(0.0));
    findings.ours("leases in the end", stage.leases().await? as f64, "", Bar::Equal(1.0));
    Ok(())
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
