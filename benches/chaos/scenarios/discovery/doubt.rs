//! etcd loses servers that still answer, and servers die together with their keys.

use std::thread;
use std::time::{Duration, Instant};

use etcd_client::DeleteOptions;
use test_support::{Bar, Etcd, Signal};

use crate::findings::{Findings, explain};
use crate::outcome::{STEP_MS, between};
use crate::world::{Result, Server, Side, World};

const SERVICE: &str = "doubt";
const SERVERS: usize = 4;
/// After the client has begun to call.
const LOSS_AT_MS: u64 = 1_000;
/// As long as other registries take to register again.
const AGAIN_AFTER_MS: u64 = 15_000;
const CALLS: [&str; 2] = ["--seconds", "20"];

/// How etcd loses its keys.
#[derive(Clone, Copy)]
enum Loss {
    Wiped,
    Restored,
    Deleted,
}

pub(in crate::scenarios) fn lost(world: &World, findings: &mut Findings) -> Result<()> {
    for (loss, name) in [
        (Loss::Wiped, "etcd wiped"),
        (Loss::Restored, "etcd restored from an old snapshot"),
        (Loss::Deleted, "del --prefix"),
    ] {
        for side in [Side::Ours, Side::Tonic] {
            let etcd = Etcd::builder().try_start()?;
            if let Loss::Restored = loss {
                etcd.terminate();
                etcd.save();
                etcd.start_again();
            }
            let servers: Vec<Server> = (0..SERVERS).map(|_| world.peer(&[])).collect::<Result<_>>()?;
            for server in &servers {
                world.put_into(&etcd, SERVICE, &server.address)?;
            }
            let client = world.client_of(&etcd.endpoint(), side, SERVICE, &CALLS)?;
            client.sleep_until(LOSS_AT_MS);
            match loss {
                Loss::Wiped | Loss::Restored => {
                    etcd.kill();
                    if let Loss::Wiped = loss {
                        etcd.wipe();
                    } else {
                        etcd.restore();
                    }
                    etcd.start_again();
                }
                Loss::Deleted => {
                    let options = DeleteOptions::new().with_prefix();
                    let admin = world.block_on(etcd_client::Client::connect([etcd.endpoint()], None))?;
                    world.block_on(admin.kv_client().delete(format!("{SERVICE}/"), Some(options)))?;
                }
            }
            client.sleep_until(LOSS_AT_MS + AGAIN_AFTER_MS);
            for server in &servers {
                world.put_into(&etcd, SERVICE, &server.address)?;
            }
            let outcome = client.outcome()?;
            if side == Side::Ours {
                explain(&outcome);
                findings.ours(&format!("{name}: failed calls"), outcome.failed as f64, "", Bar::Equal(0.0));
                findings.ours(&format!("{name}: hanging calls"), outcome.hanging as f64, "", Bar::Equal(0.0));
                findings.ours(&format!("{name}: slowest call"), outcome.slowest_ms, "ms", Bar::AtMost(1_000.0));
                findings.ours(&format!("{name}: answered calls"), outcome.answered as f64, "", None);
            } else {
                findings.tonic(&format!("{name}: failed calls"), outcome.failed as f64, "");
                findings.tonic(&format!("{name}: hanging calls"), outcome.hanging as f64, "");
                findings.tonic(&format!("{name}: slowest call"), outcome.slowest_ms, "ms");
                findings.tonic(&format!("{name}: answered calls"), outcome.answered as f64, "");
            }
        }
    }
    Ok(())
}

/// The deadline of each call: one at a frozen server ends then.
const DEADLINE_MS: u64 = 500;
const FROZEN: [&str; 4] = ["--seconds", "14", "--timeout-ms", "500"];
/// When no call begins any more at a frozen server, after its lease has ended.
const GONE_AFTER_MS: u64 = 2_000;

pub(in crate::scenarios) fn frozen(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::builder().try_start()?;
    let start = || world.process("serve", &etcd.endpoint(), &["--service", SERVICE, "--ttl", "5"]);
    let started = (0..3).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let servers: Vec<Server> = started.into_iter().map(Server::registered).collect::<Result<_>>()?;
    let client = world.client_of(&etcd.endpoint(), Side::Ours, SERVICE, &FROZEN)?;
    client.sleep_until(LOSS_AT_MS);
    servers[1..].iter().for_each(|server| server.process.signal(Signal::STOP));
    let stopped = Instant::now();
    while world.count(&etcd, &format!("{SERVICE}/"))? > 1 {
        if stopped.elapsed() > Duration::from_secs(15) {
            return Err("the leases of the frozen servers do not end".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let ended = client.elapsed_ms();
    let outcome = client.outcome()?;
    explain(&outcome);
    // A call that began in time ends by its deadline; steps are named by their beginning.
    let after = ended + GONE_AFTER_MS + DEADLINE_MS + STEP_MS;
    let before = between(&outcome.failed_in, 0, ended);
    findings.ours(
        "calls that failed at the frozen servers before their leases ended",
        before as f64,
        "",
        Bar::AtLeast(1.0),
    );
    let late = between(&outcome.failed_in, after, u64::MAX);
    findings.ours("calls that began there 2 s after, or later", late as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
    findings.ours(
        "calls answered after that",
        between(&outcome.answered_in(), after, u64::MAX) as f64,
        "",
        Bar::AtLeast(1.0),
    );
    Ok(())
}
