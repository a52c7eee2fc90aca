//! Many services of one resolver: what do they cost etcd, and is each of them live?

use std::thread;
use std::time::{Duration, SystemTime};

use etcd_client::{Client, Txn, TxnOp};
use test_support::{Bar, Etcd, Proxy};

use super::reader::{Reader, ms_between};
use crate::findings::Findings;
use crate::world::{Result, World, naming};

const SERVICE: &str = "s";
const SERVICES: usize = 1_000;
/// Puts that go in one request.
const TOGETHER: usize = 100;
const AHEAD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
const FLAG: &str = "--max-concurrent-streams=100";
const ADDRESS: &str = "10.0.0.1:5";

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    measure(world, &Etcd::builder().try_start()?, "", findings)?;
    match Etcd::builder().arg(FLAG).try_start() {
        Ok(etcd) => measure(world, &etcd, ", 100 streams a connection", findings),
        // It is no figure of ours that this etcd has no such limit.
        Err(error) if error.to_string().contains("flag provided but not defined") => {
            eprintln!("  left out: etcd {} does not know {FLAG}; `--etcd 3.7` does", world.etcd_version());
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn measure(world: &World, etcd: &Etcd, at: &str, findings: &mut Findings) -> Result<()> {
    let proxy = Proxy::to(etcd.address());
    let many = SERVICES.to_string();
    let reader = Reader::start(world, &proxy.endpoint(), SERVICE, &["--many", &many])?;
    thread::sleep(AHEAD);
    world.block_on(put_into_each(etcd))?;
    let put = SystemTime::now();
    let seen = reader.saw_all(PATIENCE);
    let name = format!("a put into each, all seen within{at}");
    match seen {
        Ok(seen) => findings.ours(&name, ms_between(put, seen), "ms", Bar::AtMost(1_000.0)),
        Err(_) => findings.missing(&name, format!("not within {PATIENCE:?}")),
    }
    let metric = |name: &str| etcd.metric(name).unwrap_or(f64::NAN);
    let (connections, streams) = (proxy.connections() as f64, metric("etcd_debugging_mvcc_watch_stream_total"));
    findings.ours(&format!("connections{at}"), connections, "", Bar::AtMost(4.0));
    findings.ours(&format!("watch streams{at}"), streams, "", Bar::AtMost(16.0));
    let watches = metric("etcd_debugging_mvcc_watcher_total");
    findings.ours(&format!("watches{at}"), watches, "", Bar::Equal(SERVICES as f64));
    let events = reader.events();
    let warnings: Vec<_> = events.iter().filter(|event| !event.starts_with("event INFO ")).collect();
    for warning in warnings.iter().take(3) {
        eprintln!("  {warning}");
    }
    findings.ours(&format!("events at WARN and above{at}"), warnings.len() as f64, "", Bar::Equal(0.0));
    Ok(())
}

async fn put_into_each(etcd: &Etcd) -> Result<()> {
    let client = Client::connect([etcd.endpoint()], None).await?;
    let numbers: Vec<usize> = (0..SERVICES).collect();
    for numbers in numbers.chunks(TOGETHER) {
        let put = |number: &usize| TxnOp::put(format!("{SERVICE}{number}/{ADDRESS}"), naming(ADDRESS), None);
        client.kv_client().txn(Txn::new().and_then(numbers.iter().map(put).collect::<Vec<_>>())).await?;
    }
    Ok(())
}
