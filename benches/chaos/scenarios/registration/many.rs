//! Many registrations of one process.

use std::thread;
use std::time::{Duration, Instant};

use test_support::{Bar, Etcd};

use crate::findings::Findings;
use crate::world::{Result, World};

const REGISTRATIONS: usize = 500;
const TTL: u64 = 3;
/// So many thirds of a lease's life are looked at.
const THIRDS: u32 = 20;

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let (registrations, ttl) = (REGISTRATIONS.to_string(), TTL.to_string());
    let began = Instant::now();
    let process = world.process("register", &etcd.endpoint(), &["--registrations", &registrations, "--ttl", &ttl])?;
    process.wait_line(|line| line.starts_with("registered "), Duration::from_secs(60))?;
    findings.ours("registered within", began.elapsed().as_secs_f64() * 1e3, "ms", None);
    let metric = |name: &str, label: &str| etcd.metric_with(name, label).unwrap_or(f64::NAN);
    let keep_alive = r#"grpc_method="LeaseKeepAlive""#;
    let sent = || metric("grpc_server_msg_received_total", keep_alive);
    // The stream is opened with the first renewal.
    let third = Duration::from_secs(TTL) / 3;
    thread::sleep(third * 2);
    let before = sent();
    thread::sleep(third * THIRDS);
    let rate = (sent() - before) / f64::from(THIRDS);
    findings.ours("keep-alives in a third of the lease's life", rate, "", Bar::AtMost(1.0));
    findings.ours("keep-alive streams", metric("grpc_server_started_total", keep_alive), "", Bar::Equal(1.0));
    findings.ours("leases granted", metric("etcd_debugging_lease_granted_total", ""), "", Bar::Equal(1.0));
    findings.ours("keys", world.count(&etcd, "many/")? as f64, "", Bar::Equal(REGISTRATIONS as f64));
    Ok(())
}
