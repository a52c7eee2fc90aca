//! Two zones of servers: do calls stay in the own one, and do they return to it?

use std::time::{Duration, Instant};

use test_support::{Bar, Signal};

use crate::findings::{Findings, explain};
use crate::outcome::Outcome;
use crate::world::{Client, Result, Server, Side, World};

const SERVERS: usize = 4;
/// Of the client, and of the first servers.
const OWN: [&str; 2] = ["--zone", "a"];
const OTHER: [&str; 2] = ["--zone", "b"];
const KILL_AT_MS: u64 = 1_000;
const GONE: Duration = Duration::from_secs(3);
/// Time to return, after the last server is registered again.
const RETURN_MS: u64 = 5_000;
/// How long calls are counted then.
const COUNTED_MS: u64 = 1_000;

pub(in crate::scenarios) fn quiet(world: &World, findings: &mut Findings) -> Result<()> {
    let (service, seconds) = ("zones", 5);
    let home = world.servers(SERVERS, &[service], &OWN)?;
    let _others = world.servers(SERVERS, &[service], &OTHER)?;
    let outcome = world.run(Side::Ours, service, &[&OWN[..], &["--seconds", &seconds.to_string()]].concat())?;
    let away = 100.0 - home_share(&outcome, &home, 0, u64::MAX);
    let loaded = format!("64 callers in a closed loop, {seconds} s, 1 run");
    findings.ours(&format!("calls that leave the own zone, {loaded}"), away, "%", Bar::AtMost(1.0));
    findings.ours(&format!("failed calls, {loaded}"), outcome.failed as f64, "", Bar::Equal(0.0));
    Ok(())
}

/// With leases that last while the servers are gone, and with leases that end: then etcd loses the whole zone.
pub(in crate::scenarios) fn killed(world: &World, findings: &mut Findings) -> Result<()> {
    for (service, ttl, leases) in [("zone-killed", "15", "leases of 15 s"), ("zone-killed-lost", "2", "leases of 2 s")]
    {
        let home = world.servers(SERVERS, &[service], &[&OWN[..], &["--ttl", ttl]].concat())?;
        let _others = world.servers(SERVERS, &[service], &OTHER)?;
        let args = [&OWN[..], &["--repeatable", "--seconds", "60"]].concat();
        let client = world.client(Side::Ours, service, &args)?;
        let (back, back_ms) = kill_and_start(world, service, ttl, home, &client)?;
        client.sleep_until(back_ms + RETURN_MS + COUNTED_MS);
        let outcome = client.stop()?;
        let returned = home_share(&outcome, &back, back_ms + RETURN_MS, back_ms + RETURN_MS + COUNTED_MS);
        let loaded = format!("64 callers in a closed loop, {leases}, 1 run");
        explain(&outcome);
        findings.ours(&format!("failed calls, {loaded}"), outcome.failed as f64, "", Bar::Equal(0.0));
        findings.ours(&format!("hanging calls, {loaded}"), outcome.hanging as f64, "", Bar::Equal(0.0));
        let name = format!("calls at home from 5 s to 6 s after the last server is registered again, {loaded}");
        findings.ours(&name, returned, "%", Bar::AtLeast(99.0));
    }
    Ok(())
}

/// Returns the servers that have taken the place of the killed ones, and when the last of them was registered.
fn kill_and_start(
    world: &World,
    service: &str,
    ttl: &str,
    home: Vec<Server>,
    client: &Client,
) -> Result<(Vec<Server>, u64)> {
    client.sleep_until(KILL_AT_MS);
    home.iter().for_each(|server| server.process.signal(Signal::KILL));
    let killed = Instant::now();
    let addresses: Vec<String> = home.iter().map(|server| server.address.clone()).collect();
    drop(home); // waits for their ends
    std::thread::sleep(GONE.saturating_sub(killed.elapsed()));
    let start = |address: &String| world.server(&[service], &[&OWN[..], &["--ttl", ttl, "--listen", address]].concat());
    let back = addresses.iter().map(start).collect::<Result<_>>()?;
    Ok((back, client.elapsed_ms()))
}

/// The part of the answered calls, in percent, that these servers answered in `[from, to)`.
fn home_share(outcome: &Outcome, home: &[Server], from_ms: u64, to_ms: u64) -> f64 {
    let by = |address: &str| outcome.answered_by_between(address, from_ms, to_ms);
    let at_home: u64 = home.iter().map(|server| by(&server.address)).sum();
    let all: u64 = outcome.answered_by.keys().map(|address| by(address)).sum();
    at_home as f64 * 100.0 / all as f64
}
