//! How soon is the snapshot right again, after etcd was away and after a member fell silent?

use std::thread;
use std::time::{Duration, SystemTime};

use test_support::{Bar, Cluster, Etcd, Proxy};
use tokio::time::timeout;

use super::reader::{Admin, Reader, ms_between};
use crate::findings::Findings;
use crate::outcome::median;
use crate::world::{Result, World};

const SERVICE: &str = "again";
const TIMES: u32 = 10;
/// How long etcd is away the first time, and by how much longer each time: outages of all lengths that backoff tells apart.
const AWAY: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(2);
/// How long one attempt to change the set may take.
const WRITE: Duration = Duration::from_millis(500);
const SILENT: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let took = (restarts(world)?, silence(world)?);
    let worst = took.0.iter().copied().fold(f64::NAN, f64::max);
    findings.ours("right after a restart, median of 10", median(took.0), "ms", Bar::AtMost(500.0));
    findings.ours("right after a restart, worst of 10", worst, "ms", Bar::AtMost(1_500.0));
    findings.ours("right after the member in use fell silent", took.1 / 1e3, "s", Bar::AtMost(9.0));
    Ok(())
}

/// One etcd is killed and started again. The set is changed as soon as it says that it is healthy; milliseconds from then.
fn restarts(world: &World) -> Result<Vec<f64>> {
    let etcd = Etcd::builder().try_start()?;
    let (mut old, mut took) = (address(0), vec![]);
    world.block_on(async { Admin::connect(&etcd.endpoint(), SERVICE, None).await?.put(&old).await })?;
    let reader = Reader::start(world, &etcd.endpoint(), SERVICE, &[])?;
    for time in 1..=TIMES {
        etcd.kill();
        thread::sleep(AWAY * time);
        let said = reader.said();
        etcd.start_again_nowait();
        while !etcd.health() {
            thread::sleep(LOOK);
        }
        let (healthy, new) = (SystemTime::now(), address(time));
        world.block_on(replace(&etcd.endpoint(), &old, &new))?;
        let ms = ms_between(healthy, reader.saw(said, std::slice::from_ref(&new), PATIENCE)?);
        eprintln!("  away for {:?}: {ms:.0} ms", AWAY * time);
        took.push(ms);
        old = new;
    }
    Ok(took)
}

/// The member in use, one of three, is frozen, and the set is changed at another; milliseconds from the freeze.
fn silence(world: &World) -> Result<f64> {
    let cluster = Cluster::start(3);
    let proxies: Vec<Proxy> = cluster.members().iter().map(|member| Proxy::to(member.address())).collect();
    let (old, new) = (address(1), address(2));
    world.block_on(async { Admin::connect(&cluster.member(0).endpoint(), SERVICE, None).await?.put(&old).await })?;
    let through: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let reader = Reader::start(world, &through.join(","), SERVICE, &[])?;
    reader.saw(0, std::slice::from_ref(&old), PATIENCE)?;
    let used = proxies.iter().position(|proxy| proxy.open_connections() > 0).ok_or("no member is in use")?;
    let said = reader.said();
    let frozen = SystemTime::now();
    cluster.member(used).freeze();
    let live = cluster.member((used + 1) % 3).endpoint();
    // Where it was the leader that was frozen, a write that went to it is lost, and another one waits for the next leader.
    let written = || world.block_on(async { matches!(timeout(WRITE, replace(&live, &old, &new)).await, Ok(Ok(()))) });
    while !written() {
        if frozen.elapsed()? > SILENT {
            return Err("nothing could be written while a member was frozen".into());
        }
    }
    eprintln!("  changed at another member after {:?}", frozen.elapsed()?);
    thread::sleep(SILENT.saturating_sub(frozen.elapsed()?));
    cluster.member(used).thaw();
    Ok(ms_between(frozen, reader.saw(said, std::slice::from_ref(&new), PATIENCE)?))
}

async fn replace(etcd: &str, old: &str, new: &str) -> Result<()> {
    let admin = Admin::connect(etcd, SERVICE, None).await?;
    admin.put(new).await?;
    admin.delete(old).await
}

fn address(number: u32) -> String {
    format!("10.0.0.{number}:5")
}
