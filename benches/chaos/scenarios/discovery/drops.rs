//! Resolutions that are made and dropped, ten thousand times: what stays behind?
//!
//! The benchmark `discovery_cycles` does it, in a process whose allocator counts. Counting would slow down every other
//! scenario, so it is another program, which cargo builds and runs.

use std::env;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use test_support::{Bar, Process, Row};

use crate::findings::Findings;
use crate::world::{Result, World};

/// Most of it is for building.
const PATIENCE: Duration = Duration::from_secs(900);

/// A row of a report, as JSON.
#[derive(Deserialize)]
struct Figure {
    name: String,
    value: Option<f64>,
    unit: String,
    bar: Option<String>,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["bench", "--bench", "discovery_cycles", "--", "--json"]);
    let process = Process::spawn(&mut command)?;
    // The exit code says no more than the rows.
    process.wait(PATIENCE)?;
    let figures: Vec<Figure> =
        serde_json::from_str(&process.lines().join("\n")).map_err(|_| process.failed("gave no list of figures"))?;
    for Figure { name, value, unit, bar } in figures {
        let bar = bar.as_deref().map(read).transpose()?;
        let note = value.is_none().then(|| "the benchmark discovery_cycles says why".to_owned());
        findings.row(Row { name, value, unit, bar, note });
    }
    Ok(())
}

/// A bar as a report writes it.
fn read(text: &str) -> Result<Bar> {
    let (sign, bar) = text.split_once(' ').ok_or("no bar")?;
    let bar = bar.parse()?;
    match sign {
        "≤" => Ok(Bar::AtMost(bar)),
        "≥" => Ok(Bar::AtLeast(bar)),
        "=" => Ok(Bar::Equal(bar)),
        _ => Err(format!("no bar: {text}").into()),
    }
}
