//! Calls of which every tenth fails, at whichever server: what outlier detection adds to them.

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use serde::{Deserialize, Serialize};
use test_support::{Bar, Result};
use tokio::runtime::Runtime;
use tonic_etcd::{BalancedChannel, OutlierDetection};

use super::{Job, MANY, NAME, argument, channel, connected, spawn};
use crate::findings::Findings;
use crate::{PATIENCE, heap, job, servers};

/// Calls before anything is counted, and those that are.
const WARM_UP: usize = 300;
const CALLS: usize = 6_000;
/// One of so many fails.
const FAILS: usize = 10;

/// What a process does.
#[derive(Serialize, Deserialize)]
pub(super) struct Run {
    addresses: Vec<String>,
    is_on: bool,
    counts_allocations: bool,
}

/// What a call costs.
struct Cost {
    instructions: f64,
    allocations: f64,
}

pub(super) fn rows(found: &mut Findings) {
    let servers = spawn(&Job::Serve(MANY));
    let addresses = servers::addresses(&servers);
    let [off, on] = [false, true].map(|is_on| cost(&addresses, is_on));
    let name = |what: &str| format!("a call, {MANY} servers, 1 of {FAILS} fails, {what}");
    for (what, of, most) in [
        ("instructions", (|cost| cost.instructions) as fn(&Cost) -> f64, 1.05),
        // "Equal": what the detector allocates once in its interval of 10 s is shared by the calls of that.
        ("allocations", |cost| cost.allocations, 1.01),
    ] {
        let both =
            off.as_ref().map_err(Clone::clone).and_then(|off| Ok((of(off), of(on.as_ref().map_err(Clone::clone)?))));
        let value = |of: fn((f64, f64)) -> f64| both.clone().map(of);
        let bar = Bar::AtMost(most);
        found.add_or_missing(name(&format!("{what}, detection off")), value(|both| both.0), "", None);
        found.add_or_missing(name(&format!("{what}, detection on")), value(|both| both.1), "", None);
        found.add_or_missing(name(&format!("{what}, on / off")), value(|both| both.1 / both.0), "×", bar);
    }
}

/// What a call costs: in one process instructions are counted, in another one allocations.
fn cost(addresses: &[String], is_on: bool) -> Result<Cost> {
    let run = |counts_allocations| Job::Eject(Run { addresses: addresses.to_vec(), is_on, counts_allocations });
    let instructions = job::instructions_within("make_calls", NAME, &argument(&run(false)))?;
    let line = spawn(&run(true)).wait_line(|_| true, PATIENCE)?;
    let allocations: f64 = line.parse().expect("a number");
    let each = |count: f64| count / CALLS as f64;
    Ok(Cost { instructions: each(instructions), allocations: each(allocations) })
}

pub(super) fn job(run: &Run) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut client = runtime.block_on(async {
        let builder = BalancedChannel::builder().without_keep_alive();
        let builder = if run.is_on { builder.outlier_detection(OutlierDetection::default()) } else { builder };
        let channel = channel(builder, &run.addresses);
        connected(&channel, run.addresses.len()).await;
        let mut client = GreeterClient::new(channel);
        calls(&mut client, WARM_UP).await;
        client
    });
    let profiler = run.counts_allocations.then(heap::profiler);
    make_calls(&runtime, &mut client);
    if profiler.is_some() {
        println!("{}", heap::allocations());
    }
    std::process::exit(0);
}

/// What is counted: on one thread, everything that the process does meanwhile.
#[inline(never)]
fn make_calls(runtime: &Runtime, client: &mut GreeterClient<BalancedChannel>) {
    runtime.block_on(calls(client, CALLS));
}

async fn calls(client: &mut GreeterClient<BalancedChannel>, count: usize) {
    for call in 0..count {
        let fails = call % FAILS == 0;
        let name = if fails { servers::FAIL } else { "world" };
        let result = client.say_hello(HelloRequest { name: name.to_owned() }).await;
        assert_eq!(result.is_err(), fails, "{result:?}");
    }
}
