//! A flood of changes, read by ours and by a raw watch in turn: how late is what they show, and what does it cost?

use std::thread;
use std::time::Duration;

use test_support::{Bar, Etcd, Process, Signal};

use crate::findings::Findings;
use crate::flood::KEYS;
use crate::flood::read::Found;
use crate::outcome::median;
use crate::world::{Result, World};

const PAIRS: usize = 5;
const RATE: usize = 5_000;
const SECONDS: usize = 10;
/// For the last change to arrive.
const LAST: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Runs {
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
    /// Runs at whose end the last values were not those that were written last.
    wrong: usize,
}

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::builder().try_start()?;
    let (mut raw, mut ours, mut rates) = (Runs::default(), Runs::default(), vec![]);
    // All keys are there before anybody reads.
    write(world, &etcd, KEYS)?;
    for pair in 0..PAIRS {
        // Each is the first of a pair in turn: etcd grows from run to run.
        let both = [("raw", &mut raw), ("ours", &mut ours)];
        let order: Vec<_> = if pair % 2 == 0 { both.into() } else { both.into_iter().rev().collect() };
        for (reader, runs) in order {
            rates.push(read(world, &etcd, reader, runs)?);
        }
    }
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = median(ours.cpu.iter().zip(&raw.cpu).map(|(ours, raw)| ours / raw).collect());
    let late = 2.0 * median(raw.p99.clone()) + 2.0;
    // Where the machine cannot write so fast, the other figures are those of another flood.
    findings.figure("changes written, slowest run", slowest, "/s", Bar::AtLeast(0.9 * RATE as f64));
    findings.figure("put to seen, p50, raw watch", median(raw.p50), "ms", None);
    findings.figure("put to seen, p50, ours", median(ours.p50), "ms", None);
    findings.figure("put to seen, p99, raw watch", median(raw.p99), "ms", None);
    findings.figure("put to seen, p99, ours", median(ours.p99), "ms", Bar::AtMost(late));
    findings.figure("CPU time of the reader, raw watch", median(raw.cpu), "s", None);
    findings.figure("CPU time of the reader, ours", median(ours.cpu), "s", None);
    findings.figure("CPU time, ours / raw watch", ratio, "×", Bar::AtMost(1.6));
    findings.figure("runs that ended with old values, raw watch", raw.wrong as f64, "", Bar::Equal(0.0));
    findings.figure("runs that ended with old values, ours", ours.wrong as f64, "", Bar::Equal(0.0));
    Ok(())
}

/// One flood, one reader; gives how fast it was written.
fn read(world: &World, etcd: &Etcd, reader: &str, runs: &mut Runs) -> Result<f64> {
    let process = world.process("flood-read", &etcd.endpoint(), &["--reader", reader])?;
    process.wait_line(|line| line == "ready", PATIENCE)?;
    let (rate, sum) = write(world, etcd, RATE * SECONDS)?;
    thread::sleep(LAST);
    process.signal(Signal::TERM);
    let line = process.wait_line(|line| line.starts_with("found "), PATIENCE)?;
    let found: Found = serde_json::from_str(line.trim_start_matches("found "))?;
    let Found { p50_ms, p99_ms, cpu_seconds, seen, .. } = found;
    eprintln!("  {reader}: {rate:.0} changes/s, {seen} seen, p50 {p50_ms} ms, p99 {p99_ms} ms, CPU {cpu_seconds:.2} s");
    runs.p50.push(p50_ms);
    runs.p99.push(p99_ms);
    runs.cpu.push(cpu_seconds);
    runs.wrong += usize::from(found.sum != sum);
    Ok(rate)
}

/// So many puts; gives how many there were in a second, and the sum of the sampled keys' last times.
fn write(world: &World, etcd: &Etcd, puts: usize) -> Result<(f64, u64)> {
    let (puts, rate) = (puts.to_string(), RATE.to_string());
    let writer: Process = world.process("flood-write", &etcd.endpoint(), &["--puts", &puts, "--rate", &rate])?;
    let line = writer.wait_line(|line| line.starts_with("written "), PATIENCE)?;
    let mut words = line.split(' ').skip(1);
    let (rate, sum) = (words.next().ok_or("no rate")?, words.next().ok_or("no sum")?);
    Ok((rate.parse()?, sum.parse()?))
}
