//! Many servers in one channel: all connected, and what does a pick cost then?

use std::time::Duration;

use test_support::Bar;

use crate::findings::Findings;
use crate::outcome::median;
use crate::world::{Result, Side, World};

const SIZES: [usize; 3] = [3, 100, 1_000];
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// What a client with so many servers says.
#[derive(Default)]
struct Size {
    connected_ms: Vec<f64>,
    /// Nanoseconds of a call that ends with the pick.
    picked: Vec<f64>,
    /// The same where the next server in order is picked, without a look at any other.
    floor: Vec<f64>,
}

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let mut sizes = SIZES.map(|_| Size::default());
    let mut servers = Vec::new();
    for size in SIZES {
        servers.push(world.server(&[&service(size)], &["--listeners", &size.to_string()])?);
    }
    // In turns, so that a slow moment of the machine is no size's own.
    for _ in 0..ROUNDS {
        for (size, found) in SIZES.iter().zip(&mut sizes) {
            let (connected, picked) = picks(world, *size, "least-request")?;
            found.connected_ms.push(connected);
            found.picked.push(picked);
            found.floor.push(picks(world, *size, "round-robin")?.1);
        }
    }
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    for (size, found) in SIZES.iter().zip(&sizes) {
        let connected = median(found.connected_ms.clone());
        findings.ours(&format!("{size} servers, until all are connected"), connected, "ms", None);
        findings.ours(&format!("{size} servers, a call until h2 has it"), least(&found.picked), "ns", None);
        findings.ours(&format!("{size} servers, the same in turns"), least(&found.floor), "ns", None);
    }
    let ratio = least(&sizes[2].picked) / least(&sizes[0].picked);
    findings.ours("a call until h2 has it, 1 000 servers / 3", ratio, "×", Bar::AtMost(2.0));
    Ok(())
}

fn service(size: usize) -> String {
    format!("thousand-{size}")
}

/// Milliseconds until all are connected, and nanoseconds of a pick.
fn picks(world: &World, size: usize, policy: &str) -> Result<(f64, f64)> {
    let args = ["--connect", &size.to_string(), "--picks", "--policy", policy];
    let client = world.tool(Side::Ours, &service(size), &args)?;
    if !client.wait(LIMIT)?.success() {
        return Err(client.failed("did not end well").into());
    }
    let said = |what: &str| {
        let line = client.wait_line(|line| line.starts_with(what), LIMIT)?;
        Ok::<f64, Box<dyn std::error::Error>>(line.trim_start_matches(what).trim().parse()?)
    };
    Ok((said("connected")?, said("pick")?))
}
