//! One of three servers hangs, or all are slow: what do an attempt timeout and hedges make of the calls, and what do they cost?

use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::Bar;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::fleet::Fleet;
use super::worst::Worst;
use crate::findings::Findings;
use crate::peer::ATTEMPTS_BEFORE;
use crate::peer::conduct::{Conduct, Fault};
use crate::world::{Result, World};

pub(super) const SAY_HELLO: &str = "/helloworld.Greeter/SayHello";
const WORKERS: [usize; 3] = [1, 8, 64];
/// How long the good ones take, and how long a worker pauses after each call, so that the machine is not what is slow.
const GOOD: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_millis(100);
const HEDGE: Duration = Duration::from_millis(20);
/// How long all take where all are slow, and how many calls each worker makes then.
const SLOW: Duration = Duration::from_millis(30);
const SLOW_CALLS: usize = 1_000;
/// At least so many calls with more than one attempt are looked at, from as many channels as that takes.
const COUNTED: usize = 20;
const MAX_CHANNELS: usize = 200;
/// Calls of a channel; hedges are counted after the first of them.
const CALLS: usize = 100;
const CALLS_AFTER: usize = 1_000;
/// What a call has where the budget is empty, and elsewhere: a call that no hedge has helped must not last for ever.
const DEADLINE: Duration = Duration::from_millis(400);
const LIMIT: Duration = Duration::from_secs(5);

/// One call that was made.
struct Made {
    took: Duration,
    is_ok: bool,
    had_attempts: bool,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let policy = || RetryPolicy::new().repeatable(SAY_HELLO);
    super::block_on(async {
        hangs(findings, "attempt_timeout 100 ms", &policy().attempt_timeout(TIMEOUT), (120.0, 200.0)).await?;
        hangs(findings, "hedge after 20 ms", &policy().hedge_after(HEDGE), (30.0, 60.0)).await?;
        let (mut after, mut all_slow) = (Worst::most(), Worst::most());
        for workers in WORKERS {
            after.see(hedges_after_the_first(&policy().hedge_after(HEDGE), workers).await?, &name(workers));
        }
        let mut side_by_side = JoinSet::new();
        for workers in WORKERS {
            let policy = policy().hedge_after(HEDGE);
            side_by_side
                .spawn(async move { (workers, slow(&policy, workers).await.map_err(|error| error.to_string())) });
        }
        while let Some(found) = side_by_side.join_next().await {
            let (workers, ratio) = found?;
            all_slow.see(ratio?, &name(workers));
        }
        let text = "hedge after 20 ms: attempts / calls after the first 100, 1, 8, 64 workers, most";
        findings.ours(text, after.tell(text), "×", Bar::AtMost(1.1));
        let text = "all three take 30 ms, hedge after 20 ms: attempts / calls, 1, 8, 64 workers, most";
        findings.ours(text, all_slow.tell(text), "×", Bar::AtMost(1.2));
        empty_budget(findings, &policy().attempt_timeout(TIMEOUT).budget(0, 0.1)).await
    })
}

fn name(workers: usize) -> String {
    format!("{workers} workers")
}

/// Failed calls, and the times of those with more than one attempt.
async fn hangs(findings: &mut Findings, what: &str, policy: &RetryPolicy, (median, p90): (f64, f64)) -> Result<()> {
    let (mut failed, mut medians, mut p90s) = (0, Worst::most(), Worst::most());
    for workers in WORKERS {
        let mut times = Vec::new();
        for _ in 0..MAX_CHANNELS {
            let (fleet, channel) = one_hangs(policy).await?;
            let made = calls(&channel, workers, CALLS.div_ceil(workers)).await?;
            drop(fleet);
            failed += made.iter().filter(|made| !made.is_ok).count();
            times.extend(made.into_iter().filter(|made| made.had_attempts).map(|made| made.took));
            if times.len() >= COUNTED {
                break;
            }
        }
        times.sort_unstable();
        let at = |part: f64| {
            let index = (times.len() as f64 * part) as usize;
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        eprintln!("  {what}, {}: {} calls with more than one attempt", name(workers), times.len());
        medians.see(if times.len() < COUNTED { f64::NAN } else { at(0.5) }, &name(workers));
        p90s.see(at(0.9), &name(workers));
    }
    findings.ours(&format!("{what}: failed calls, 1, 8, 64 workers"), failed as f64, "", Bar::Equal(0.0));
    for (part, worst, bar) in [("median", medians, median), ("p90", p90s, p90)] {
        let name = format!("{what}: {part} of calls with more than one attempt, 1, 8, 64 workers, most");
        findings.ours(&name, worst.tell(&name), "ms", Bar::AtMost(bar));
    }
    Ok(())
}

async fn hedges_after_the_first(policy: &RetryPolicy, workers: usize) -> Result<f64> {
    let (fleet, channel) = one_hangs(policy).await?;
    calls(&channel, workers, CALLS.div_ceil(workers)).await?;
    let before = fleet.arrivals.count();
    let made = calls(&channel, workers, CALLS_AFTER.div_ceil(workers)).await?;
    Ok((fleet.arrivals.count() - before) as f64 / made.len() as f64)
}

async fn slow(policy: &RetryPolicy, workers: usize) -> Result<f64> {
    let fleet = Fleet::start(3, Conduct::well(SLOW))?;
    let channel = fleet.ours(BalancedChannel::builder().retry(policy.clone())).await?;
    let made = calls(&channel, workers, SLOW_CALLS).await?;
    Ok(fleet.arrivals.count() as f64 / made.len() as f64)
}

/// No call may end before its own deadline, unless it is answered.
async fn empty_budget(findings: &mut Findings, policy: &RetryPolicy) -> Result<()> {
    let (mut early, mut late, mut several) = (0, 0, 0);
    for workers in WORKERS {
        let goal = late + COUNTED;
        for _ in 0..MAX_CHANNELS {
            let fleet = Fleet::start(3, Conduct::well(GOOD))?;
            let builder = BalancedChannel::builder().retry(policy.clone()).timeout(DEADLINE);
            let channel = fleet.ours(builder).await?;
            fleet.peers[0].switch.set(Conduct::default().but(Fault::Silence));
            for made in calls(&channel, workers, 20_usize.div_ceil(workers)).await? {
                several += usize::from(made.had_attempts);
                early += usize::from(!made.is_ok && made.took < DEADLINE);
                late += usize::from(!made.is_ok && made.took >= DEADLINE);
            }
            if late >= goal {
                break;
            }
        }
    }
    let name = "attempt_timeout 100 ms, empty budget";
    findings.ours(&format!("{name}: calls that end before their deadline"), early as f64, "", Bar::Equal(0.0));
    findings.ours(&format!("{name}: calls that end with it"), late as f64, "", Bar::AtLeast(COUNTED as f64));
    findings.ours(&format!("{name}: calls with more than one attempt"), several as f64, "", Bar::Equal(0.0));
    Ok(())
}

async fn one_hangs(policy: &RetryPolicy) -> Result<(Fleet, BalancedChannel)> {
    let fleet = Fleet::start(3, Conduct::well(GOOD))?;
    let channel = fleet.ours(BalancedChannel::builder().retry(policy.clone()).timeout(LIMIT)).await?;
    fleet.peers[0].switch.set(Conduct::default().but(Fault::Silence));
    Ok((fleet, channel))
}

/// Each worker makes so many calls, one after another.
async fn calls(channel: &BalancedChannel, workers: usize, each: usize) -> Result<Vec<Made>> {
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let channel = channel.clone();
        // All at the same moment would wait for the machine.
        let first = PAUSE * u32::try_from(worker)? / u32::try_from(workers)?;
        tasks.spawn(async move {
            sleep(first).await;
            let mut made = Vec::with_capacity(each);
            for _ in 0..each {
                made.push(call(&channel).await);
                sleep(PAUSE).await;
            }
            made
        });
    }
    Ok(tasks.join_all().await.into_iter().flatten().collect())
}

async fn call(channel: &BalancedChannel) -> Made {
    let (mut client, began) = (GreeterClient::new(channel.clone()), Instant::now());
    let answer = client.say_hello(HelloRequest { name: "world".into() }).await;
    let took = began.elapsed();
    match answer {
        Ok(answer) => Made { took, is_ok: true, had_attempts: answer.metadata().contains_key(ATTEMPTS_BEFORE) },
        Err(status) => {
            if took < DEADLINE {
                eprintln!("  a call that failed after {took:?}: {status}");
            }
            Made { took, is_ok: false, had_attempts: false }
        }
    }
}
