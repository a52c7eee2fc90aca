//! A client is started while etcd is down: with the cache file of an earlier one, and with files that must not be used.

use std::fs;
use std::path::Path;
use std::time::Duration;

use test_support::{Bar, Etcd, Process};

use crate::findings::Findings;
use crate::world::{Result, Server, Side, World};

const SERVICE: &str = "cold";
const TIMES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let (etcd, folder) = (Etcd::builder().try_start()?, tempfile::tempdir()?);
    let endpoint = etcd.endpoint();
    let cold = |args: &[&str]| first_call(world, &endpoint, folder.path(), args);
    let _server = Server::registered(world.process("serve", &endpoint, &["--service", SERVICE])?)?;
    let path = folder.path().to_str().ok_or("the temporary folder's path is not UTF-8")?;
    let args = ["--cache", path, "--seconds", "1", "--workers", "1"];
    world.client_of(&endpoint, Side::Ours, SERVICE, &args)?.outcome()?;
    let file = fs::read_dir(folder.path())?.next().ok_or("the client has written no cache file")??.path();
    let good = fs::read(&file)?;
    etcd.kill();

    let mut took = Vec::new();
    for _ in 0..TIMES {
        took.push(cold(&[])?);
    }
    let answered = took.iter().filter(|ms| ms.is_finite()).count();
    let worst = took.iter().copied().fold(f64::NAN, f64::max);
    findings.ours("etcd down, with a cache: clients whose first call was answered, of 5", answered as f64, "", {
        Bar::Equal(TIMES as f64)
    });
    findings.ours("etcd down, with a cache: start to first answer, slowest", worst, "ms", Bar::AtMost(1_000.0));

    let mut damaged = good.clone();
    *damaged.last_mut().ok_or("the cache file is empty")? ^= 1;
    for (name, bytes, args) in [
        ("an empty file", [].as_slice(), [].as_slice()),
        ("a damaged file", &damaged, &[]),
        ("an expired file", &good, &["--cache-max-age-ms", "1"]),
    ] {
        fs::write(&file, bytes)?;
        let answered = cold(args)?.is_finite();
        let what = format!("etcd down, with {name}: calls answered from it");
        findings.ours(&what, f64::from(u8::from(answered)), "", Bar::Equal(0.0));
    }
    Ok(())
}

/// Milliseconds from the start of a client to the answer of its first call; not a number when there is none.
fn first_call(world: &World, etcd: &str, folder: &Path, args: &[&str]) -> Result<f64> {
    let path = folder.to_str().ok_or("the temporary folder's path is not UTF-8")?;
    let begin = ["--channel", Side::Ours.name(), "--service", SERVICE, "--cold", "--cache", path];
    let client: Process = world.process("call", etcd, &[&begin, args].concat())?;
    let line = client.wait_line(|line| line.starts_with("cold "), PATIENCE)?;
    Ok(line.trim_start_matches("cold ").parse()?)
}
