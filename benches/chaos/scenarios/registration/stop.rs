//! Servers that stop while etcd is away, are killed, or never become ready.

use std::thread;
use std::time::{Duration, Instant};

use test_support::{Bar, Etcd, Process, Signal};

use crate::findings::Findings;
use crate::world::{Result, Server, Side, World};

const PATIENCE: Duration = Duration::from_secs(30);
/// Deregistering, propagation and drain, each.
const STEP_MS: u64 = 1_000;
const TTL: u64 = 3;

/// With a call on its way that never ends, so that every step takes all of its time.
pub(in crate::scenarios) fn without_etcd(world: &World, findings: &mut Findings) -> Result<()> {
    for frozen in [false, true] {
        let etcd = Etcd::start();
        let ms = STEP_MS.to_string();
        let args = ["--service", "stop", "--deregister-ms", &ms, "--propagation-ms", &ms, "--drain-ms", &ms, "--mute"];
        let server = Server::registered(world.process("serve", &etcd.endpoint(), &args)?)?;
        let (service, seconds) = ("stop", "60");
        let args = ["--channel", Side::Ours.name(), "--service", service, "--seconds", seconds, "--workers", "4"];
        let client = world.process("call", &etcd.endpoint(), &args)?;
        client.wait_line(|line| line == "began", PATIENCE)?;
        thread::sleep(Duration::from_millis(500));
        if frozen {
            etcd.freeze();
        } else {
            etcd.kill();
        }
        let began = Instant::now();
        server.stop()?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let name = if frozen {
            "stopped while etcd is frozen, calls on their way"
        } else {
            "stopped while etcd is down, calls on their way"
        };
        findings.ours(name, took, "ms", Bar::AtMost(3.0 * STEP_MS as f64));
        if frozen {
            etcd.thaw();
        }
    }
    Ok(())
}

pub(in crate::scenarios) fn killed(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let server = world.process("serve", &etcd.endpoint(), &["--service", "killed", "--ttl", &TTL.to_string()])?;
    let server = Server::registered(server)?;
    // Just renewed, at the worst.
    thread::sleep(Duration::from_secs(TTL));
    server.process.signal(Signal::KILL);
    let began = Instant::now();
    while world.count(&etcd, "killed/")? > 0 && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let limit = (TTL + 1) as f64;
    findings.ours(
        "gone from etcd after the kill, time to live 3 s",
        began.elapsed().as_secs_f64(),
        "s",
        Bar::AtMost(limit),
    );
    Ok(())
}

pub(in crate::scenarios) fn unready(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let before = world.revision(&etcd)?;
    let server = world.process("serve", &etcd.endpoint(), &["--service", "unready", "--never-ready"])?;
    server.wait_line(|line| line.starts_with("listening "), PATIENCE)?;
    thread::sleep(Duration::from_secs(5));
    stop(&server)?;
    findings.ours(
        "changes in etcd by one that is never ready",
        (world.revision(&etcd)? - before) as f64,
        "",
        Bar::Equal(0.0),
    );
    Ok(())
}

fn stop(server: &Process) -> Result<()> {
    server.signal(Signal::TERM);
    if server.wait(PATIENCE)?.success() { Ok(()) } else { Err(server.failed("did not stop in good order").into()) }
}
