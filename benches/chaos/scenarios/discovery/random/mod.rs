//! 200 random steps over three members: fifty writers put, expire and delete, and each step does something else to etcd beside
//! them. After each, etcd, the snapshot, the replay of the change stream and the channel must agree.
//!
//! `SEED=n cargo xtask chaos random` repeats a run.

mod forward;
mod stage;
mod step;
mod truth;

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use test_support::Bar;

use self::stage::Stage;
use self::step::{Step, deck};
use self::truth::Differences;
use crate::findings::Findings;
use crate::world::{Result, World};

/// A relist comes within 10 s of a break, and a member that says nothing is left after 8 s.
const AGREED_WITHIN: Duration = Duration::from_secs(30);
/// How many disagreements are told one by one.
const TOLD: usize = 5;

/// Panics in any thread of this process since it began to count them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map_err(|_| format!("SEED={seed}: a number is wanted"))?,
        Err(_) => u64::from(std::process::id()),
    };
    eprintln!("  SEED={seed}");
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(info);
    }));
    let (began, mut random) = (Instant::now(), Random(seed));
    let (mut lost, mut ghosts, mut slowest) = (0, 0, Duration::ZERO);
    let mut told = 0;
    world.block_on(async {
        let mut stage = Stage::start().await?;
        for (number, step) in deck(&mut random).into_iter().enumerate() {
            stage.play(step, &mut random).await?;
            let quiet = Instant::now();
            let found = stage.agreement(AGREED_WITHIN).await?;
            slowest = slowest.max(quiet.elapsed());
            if let Some(Differences { lost: missing, ghosts: extra, text }) = found {
                (lost, ghosts, told) = (lost + missing, ghosts + extra, told + 1);
                if told <= TOLD {
                    eprintln!("  SEED={seed}, step {number}, {step:?}: {text}");
                }
            }
            stage.heal();
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    let seconds = began.elapsed().as_secs_f64();
    drop(panic::take_hook());
    findings.figure("200 random steps", Step::all() as f64, "steps", Bar::Equal(200.0));
    findings.ours("instances that etcd holds and somebody lacks", lost as f64, "", Bar::Equal(0.0));
    findings.ours("instances that somebody has and etcd does not", ghosts as f64, "", Bar::Equal(0.0));
    findings.ours("panics", PANICS.load(Ordering::Relaxed) as f64, "", Bar::Equal(0.0));
    findings.ours("slowest agreement after a step", slowest.as_secs_f64(), "s", None);
    findings.figure("time", seconds, "s", Bar::AtMost(720.0));
    Ok(())
}

/// A linear congruential generator: a seed repeats a run.
pub(super) struct Random(u64);

impl Random {
    /// A number from 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
