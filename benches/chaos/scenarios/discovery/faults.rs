//! etcd fails while its servers change: do calls, and how soon are new servers called?

use std::thread;
use std::time::{Duration, Instant};

use test_support::{Bar, Process, Signal};
use tokio::time::sleep;

use super::stage::{Fault, SERVICE, Stage};
use crate::findings::{Findings, explain};
use crate::outcome::Outcome;
use crate::world::{Client, Result, Server, Side, World};

/// 64 callers that leave the machine some time: two clients, the servers and three members of etcd share it.
const CLIENT: [&str; 4] = ["--seconds", "120", "--pause-ms", "10"];
const BEFORE: Duration = Duration::from_secs(1);
/// After the last server is registered.
const AFTER: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of it.
struct Played {
    ours: Outcome,
    tonic: Outcome,
    /// The server that joined, and then those that replaced the others: when each could be known, in each client's time.
    new: Vec<New>,
}

struct New {
    address: String,
    ours_ms: u64,
    tonic_ms: u64,
}

#[expect(clippy::unnecessary_wraps, reason = "as all scenarios")]
pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    for fault in Fault::ALL {
        eprintln!("  {} …", fault.about());
        match play(world, fault) {
            Ok(played) => judge(fault, &played, findings),
            Err(error) => findings.missing(fault.about(), error.to_string()),
        }
    }
    Ok(())
}

/// Both clients call while it happens. As it begins a server is killed and another one joins; as it ends all are replaced.
fn play(world: &World, fault: Fault) -> Result<Played> {
    let mut stage = Stage::start(world)?;
    let repeatable = [&CLIENT[..], &["--repeatable"]].concat();
    let ours = world.client_of(&stage.our_endpoints(), Side::Ours, SERVICE, &repeatable)?;
    let tonic = world.client_of(&stage.other_endpoints(), Side::Tonic, SERVICE, &CLIENT)?;
    thread::sleep(BEFORE);
    let used = stage.used()?;
    let (process, address, visible) = world.block_on(Box::pin(async {
        stage.begin(fault, used).await?;
        let began = Instant::now();
        stage.servers[0].process.signal(Signal::KILL);
        let process = stage.spawn()?;
        let address = listening(&process)?;
        let ended = async {
            sleep(fault.length().saturating_sub(began.elapsed())).await;
            stage.end(fault, used).await
        };
        let (ended, visible) = tokio::join!(ended, stage.visible(&address, fault));
        ended?;
        Ok::<_, Box<dyn std::error::Error>>((process, address, visible?))
    }))?;
    let mut new = vec![New::at(address, visible, &ours, &tonic)];
    let joiner = Server::registered(process)?;
    let _killed = stage.servers.remove(0);
    stage.servers.push(joiner);
    for _ in 0..stage.servers.len() {
        let server = Server::registered(stage.spawn()?)?;
        new.push(New::at(server.address.clone(), Instant::now(), &ours, &tonic));
        stage.servers.remove(0).stop()?;
        stage.servers.push(server);
    }
    thread::sleep(AFTER);
    Ok(Played { ours: ours.stop()?, tonic: tonic.stop()?, new })
}

/// Where it listens, before it is registered.
fn listening(process: &Process) -> Result<String> {
    let line = process.wait_line(|line| line.starts_with("listening "), PATIENCE)?;
    Ok(line.trim_start_matches("listening ").to_owned())
}

impl New {
    fn at(address: String, at: Instant, ours: &Client, tonic: &Client) -> Self {
        Self { address, ours_ms: ours.ms_at(at), tonic_ms: tonic.ms_at(at) }
    }
}

fn judge(fault: Fault, played: &Played, findings: &mut Findings) {
    let Played { ours, tonic, new } = played;
    explain(ours);
    let name = |what: &str| format!("{}: {what}", fault.about());
    findings.ours(&name("failed calls"), ours.failed as f64, "", Bar::Equal(0.0));
    findings.ours(&name("hanging calls"), ours.hanging as f64, "", Bar::Equal(0.0));
    let (first, replaced) = new.split_at(1);
    for (what, new) in [("a server that joins, called within", first), ("each that replaces one", replaced)] {
        match slowest(ours, new, |new| new.ours_ms) {
            Some(ms) => findings.ours(&name(what), ms, "ms", Bar::AtMost(1_000.0)),
            None => findings.missing(&name(what), "it was never called"),
        }
    }
    findings.ours(&name("slowest call"), ours.slowest_ms, "ms", None);
    findings.tonic(&name("failed calls"), tonic.failed as f64, "");
    if let Some(ms) = slowest(tonic, first, |new| new.tonic_ms) {
        findings.tonic(&name("a server that joins, called within"), ms, "ms");
    }
}

/// The longest time from when a new server could be known until it had answered a call; 0 where it was called before.
fn slowest(outcome: &Outcome, new: &[New], known_ms: impl Fn(&New) -> u64) -> Option<f64> {
    let took = |new: &New| Some(outcome.first_answer_ms.get(&new.address)?.saturating_sub(known_ms(new)));
    let took: Vec<u64> = new.iter().map(took).collect::<Option<_>>()?;
    took.into_iter().max().map(|ms| ms as f64)
}
