//! Instructions of the client per call, counted by callgrind: two run lengths, so that start-up falls out.

use std::env;
use std::process::{Command, Stdio};

use crate::fleet::{Fleet, client};
use crate::job::{Job, Load, Side, Until};

const SHORT: u64 = 500;
const LONG: u64 = 3_500;

/// One worker over three servers.
pub(crate) fn per_call(fleet: &Fleet, side: Side) -> Result<f64, String> {
    let job = |calls| fleet.job(side, 3, Load::Unary, 1, Until::Done(calls));
    let (short, long) = (count(&job(SHORT))?, count(&job(LONG))?);
    Ok((long as f64 - short as f64) / (LONG - SHORT) as f64)
}

fn count(job: &Job) -> Result<u64, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--fair-sched=yes"]);
    valgrind.arg(env::current_exe().expect("the path of this program"));
    let output = client(valgrind, job)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind does not run ({error}): install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the client under valgrind failed: {said}"));
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let instructions = collected.and_then(|(_, count)| count.trim().parse().ok());
    instructions.ok_or_else(|| format!("callgrind counted nothing: {said}"))
}
