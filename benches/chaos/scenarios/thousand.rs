//! Many servers in one channel: what does a pick cost then?

use crate::findings::Findings;
use crate::world::{Result, Side, World};

const SIZES: [usize; 3] = [3, 100, 1_000];

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    for size in SIZES {
        let (service, count) = (format!("thousand-{size}"), size.to_string());
        let _server = world.server(&[&service], &["--listeners", &count])?;
        let args = ["--connect", &count, "--workers", "1", "--seconds", "2"];
        let outcome = world.run(Side::Ours, &service, &args)?;
        let micros = outcome.cpu_seconds * 1e6 / outcome.answered as f64;
        findings.ours(&format!("CPU time of a call, {size} servers"), micros, "µs", None);
    }
    Ok(())
}
