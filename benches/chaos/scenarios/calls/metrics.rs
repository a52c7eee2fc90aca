//! A recorder beside callers that count for themselves, while a server refuses calls, and the others hang, fail, panic and go.

use std::collections::BTreeMap;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::{Bar, SeriesRecorder};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_etcd::metrics::Metrics;
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::attempts::SAY_HELLO;
use super::channel;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::conduct::{Conduct, Fault};
use crate::peer::refusing::Refusing;
use crate::world::{Result, World};

const WORKERS: usize = 32;
/// Of each worker, for each conduct of the servers.
const CALLS: usize = 60;
const GOOD: Duration = Duration::from_millis(1);
const HEDGE: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_millis(150);
/// After so long some callers give up.
const PATIENCE: Duration = Duration::from_millis(25);
/// How many calls end so.
type Ends = BTreeMap<String, u64>;

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    super::block_on(async {
        let recorder = SeriesRecorder::default();
        let retry = RetryPolicy::new().repeatable(SAY_HELLO).hedge_after(HEDGE).attempt_timeout(TIMEOUT);
        let retry = retry.budget(1_000_000, 1.0);
        let fleet = Fleet::start(3, Conduct::well(GOOD))?;
        let builder = BalancedChannel::builder().retry(retry).timeout(DEADLINE);
        let builder = builder.metrics(Metrics::new(recorder.clone()).experimental());
        let refusing = Refusing::start().await?;
        let channel = channel::ours(builder, [fleet.addresses(), vec![refusing.address]].concat())?;
        channel::connected(&channel, fleet.peers.len() + 1).await?;
        let mut ends = Ends::new();
        let faults = [Fault::Silence, Fault::Status(Code::Unavailable), Fault::Status(Code::NotFound), Fault::Panic];
        for fault in faults {
            fleet.peers[0].switch.set(Conduct::well(GOOD).but(fault));
            fleet.peers[1].switch.set(Conduct::well(GOOD).but_some(fault, 30));
            calls(&channel, &mut ends).await?;
        }
        // The same again, while the servers go one after another: at last there is none but the one that refuses.
        fleet.all(Conduct::well(GOOD));
        for peer in fleet.peers {
            drop(peer);
            calls(&channel, &mut ends).await?;
        }
        judge(findings, &recorder, &channel, &ends);
        Ok(())
    })
}

fn judge(findings: &mut Findings, recorder: &SeriesRecorder, channel: &BalancedChannel, ends: &Ends) {
    let sum = |name: &str| recorder.values(name, &[]).value;
    let names = || (0..17).map(Code::from_i32);
    let ended = |name: &str, code: Code| recorder.count(name, &[("grpc.status", &screaming(code))]);
    let (mut wrong_calls, mut kinds) = (0, 0);
    for code in names() {
        let (seen, told) = (ends.get(&format!("{code:?}")).copied().unwrap_or(0), ended(CALL, code));
        eprintln!("  {code:?}: {seen} calls, {told} recorded, {} attempts", ended(ATTEMPT, code));
        wrong_calls += seen.abs_diff(told);
        kinds += u64::from(seen > 0);
    }
    let calls: u64 = ends.values().sum();
    let (retries, transparent, hedges) = (sum(AGAIN[0]), sum(AGAIN[1]), sum(AGAIN[2]));
    eprintln!("  {calls} calls, {retries} retries, {transparent} transparent retries, {hedges} hedges");
    let again = retries + transparent + hedges;
    findings.ours(
        "calls that callers count with another status than the recorder",
        wrong_calls as f64,
        "",
        Bar::Equal(0.0),
    );
    findings.ours("statuses that were seen", kinds as f64, "", Bar::AtLeast(4.0));
    findings.ours("retries", retries, "", Bar::AtLeast(50.0));
    findings.ours("transparent retries", transparent, "", Bar::AtLeast(50.0));
    findings.ours("hedges", hedges, "", Bar::AtLeast(50.0));
    let more = sum(STARTED) - calls as f64 - again;
    findings.ours("attempts beyond calls, retries, transparent retries and hedges", more, "", Bar::Equal(0.0));
    let open = sum(STARTED) - recorder.count(ATTEMPT, &[]) as f64;
    findings.ours("attempts that have not ended", open, "", Bar::Equal(0.0));
    let stats = channel.stats();
    let (mut other, mut started) = (0, 0);
    for method in stats.methods() {
        started += method.attempts_started();
        for (code, durations) in method.calls() {
            other += durations.count().abs_diff(ended(CALL, code));
        }
        for (code, attempts) in method.attempts() {
            other += attempts.duration().count().abs_diff(ended(ATTEMPT, code));
        }
    }
    other += started.abs_diff(sum(STARTED) as u64);
    findings.ours("counts in which stats() and the recorder differ", other as f64, "", Bar::Equal(0.0));
}

const STARTED: &str = "grpc.client.attempt.started";
const ATTEMPT: &str = "grpc.client.attempt.duration";
const CALL: &str = "grpc.client.call.duration";
const AGAIN: [&str; 3] =
    ["grpc.client.call.retries", "grpc.client.call.transparent_retries", "grpc.client.call.hedges"];

/// As gRPC writes it: `NOT_FOUND`.
fn screaming(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Each worker makes its calls, and every fourth one gives up those that take long.
async fn calls(channel: &BalancedChannel, ends: &mut Ends) -> Result<()> {
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let mut client = GreeterClient::new(channel.clone());
        workers.spawn(async move {
            let mut ends = Ends::new();
            for _ in 0..CALLS {
                let call = client.say_hello(HelloRequest { name: "world".into() });
                let patience = if worker % 4 == 0 { PATIENCE } else { DEADLINE * 100 };
                let end = match timeout(patience, call).await {
                    Ok(Ok(_)) => Code::Ok,
                    Ok(Err(status)) => status.code(),
                    Err(_) => Code::Cancelled,
                };
                *ends.entry(format!("{end:?}")).or_default() += 1;
                sleep(Duration::from_millis(1)).await;
            }
            ends
        });
    }
    while let Some(made) = workers.join_next().await {
        for (end, count) in made? {
            *ends.entry(end).or_default() += count;
        }
    }
    Ok(())
}
