//! A program that drives its runtime only while it calls: is the first call after a server's restart answered?

use std::thread;
use std::time::Duration;

use greeter_proto::Channel;
use test_support::Bar;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tonic_etcd::BalancedChannel;

use super::callers::greet;
use super::channel;
use super::company::answered;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

const TIMES: usize = 10;
/// Until what the server has said lies in the socket.
const PAUSE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Killed,
    Gracefully,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    for (how, what) in [(How::Killed, "killed"), (How::Gracefully, "gracefully")] {
        let (mut ours, mut tonic) = (0, 0);
        for servers in [1, 2] {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let mut fleet = Fleet::start(servers, Conduct::default())?;
            let channel = runtime.block_on(fleet.ours(BalancedChannel::builder()))?;
            ours += first_calls_failed(&runtime, &channel, &mut fleet, how)?;
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let mut fleet = Fleet::start(servers, Conduct::default())?;
            let channel = runtime.block_on(async { channel::tonic(&fleet.addresses()) })?;
            tonic += first_calls_failed(&runtime, &channel, &mut fleet, how)?;
        }
        let name = format!("first calls that failed, restarted {what}, one and two servers, of 20");
        findings.ours(&name, ours as f64, "", Bar::Equal(0.0));
        findings.tonic(&name, tonic as f64, "");
    }
    Ok(())
}

fn first_calls_failed(runtime: &Runtime, channel: &impl Channel, fleet: &mut Fleet, how: How) -> Result<usize> {
    let mut failed = 0;
    for _ in 0..TIMES {
        // Enough for a connection to each of them.
        for _ in 0..4 * fleet.peers.len() {
            runtime.block_on(answered(channel))?;
        }
        for peer in &mut fleet.peers {
            match how {
                How::Killed => peer.kill(),
                How::Gracefully => peer.stop(),
            }
            peer.start_again()?;
        }
        thread::sleep(PAUSE);
        match runtime.block_on(async { timeout(LIMIT, greet(channel)).await }) {
            Ok(Ok(())) => {}
            ended => {
                if failed == 0 {
                    eprintln!("  a first call: {ended:?}");
                }
                failed += 1;
            }
        }
    }
    Ok(failed)
}
