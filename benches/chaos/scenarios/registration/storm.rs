//! Thousands of registrars whose etcd comes back, and knows none of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use test_support::{Bar, Etcd};

use crate::findings::Findings;
use crate::world::{Result, World};

const REGISTRARS: usize = 2_000;
const AWAY: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let args = ["--registrars", &REGISTRARS.to_string(), "--share", "100"];
    let process = world.process("register", &etcd.endpoint(), &args)?;
    process.wait_line(|line| line.starts_with("registered "), PATIENCE)?;
    etcd.kill();
    etcd.wipe();
    thread::sleep(AWAY);
    etcd.start_again();
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let (all, grants) = thread::scope(|scope| {
        let grants = scope.spawn(|| sample(&etcd, began, &over));
        let all = all_there(world, &etcd, began);
        over.store(true, Ordering::Relaxed);
        (all, grants.join().unwrap_or_default())
    });
    match all? {
        Some(seconds) => findings.ours("all 2 000 registered", seconds, "s", Bar::AtMost(10.0)),
        None => findings.missing("all 2 000 registered", "not within a minute"),
    }
    findings.ours("most grants in a second", most_in_a_second(&grants), "/s", None);
    findings.ours("grants in all", grants.last().map_or(f64::NAN, |(_, count)| *count), "", None);
    Ok(())
}

/// When all keys were there.
fn all_there(world: &World, etcd: &Etcd, began: Instant) -> Result<Option<f64>> {
    while began.elapsed() < PATIENCE {
        if world.count(etcd, "many/")? == REGISTRARS {
            return Ok(Some(began.elapsed().as_secs_f64()));
        }
        thread::sleep(LOOK);
    }
    Ok(None)
}

/// How many leases were granted at each time.
fn sample(etcd: &Etcd, began: Instant, over: &AtomicBool) -> Vec<(f64, f64)> {
    let mut samples = vec![(0.0, 0.0)];
    loop {
        let is_last = over.load(Ordering::Relaxed);
        if let Some(count) = etcd.metric("etcd_debugging_lease_granted_total") {
            samples.push((began.elapsed().as_secs_f64(), count));
        }
        if is_last {
            return samples;
        }
        thread::sleep(LOOK);
    }
}

fn most_in_a_second(samples: &[(f64, f64)]) -> f64 {
    let since = |at: f64| samples.iter().rev().find(|(then, _)| at - then >= 1.0).map_or(0.0, |(_, count)| *count);
    samples.iter().map(|(at, count)| count - since(*at)).fold(0.0, f64::max)
}
