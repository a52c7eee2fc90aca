//! What a process costs in instructions and allocations, counted by valgrind's callgrind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::{Error, Result};

/// What a process has cost from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counts {
    /// Instructions of all threads.
    pub instructions: f64,
    /// New blocks of memory. A block that is made larger counts once.
    pub allocations: f64,
}

/// Counts the process that `command` makes of a command that runs valgrind: it adds the program and its arguments.
///
/// # Errors
/// When there is no valgrind, and when the process fails: with its first panic.
pub fn callgrind(command: impl FnOnce(Command) -> Command) -> Result<Counts> {
    let folder = tempfile::tempdir().map_err(|error| Error::new(format!("a folder for a profile: {error}")))?;
    let out = folder.path().join("callgrind.out");
    let output = command(valgrind(&out)).stdin(Stdio::null()).output().map_err(no_valgrind)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::new(format!("the process under valgrind failed: {}", first_panic(&said))));
    }
    let profile =
        std::fs::read_to_string(&out).map_err(|error| Error::new(format!("callgrind wrote no profile: {error}")))?;
    Ok(Counts { instructions: instructions(&said)?, allocations: allocations(&profile) })
}

/// A command that runs valgrind, for a process whose stderr [`instructions`] reads.
pub fn valgrind(out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--fair-sched=yes"]);
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(out);
    valgrind.arg(file);
    valgrind
}

/// The sum that callgrind says at its end.
///
/// # Errors
/// When it says none.
pub fn instructions(said: &str) -> Result<f64> {
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| Error::new(format!("callgrind counted nothing: {said}")))
}

/// A short and a long run at the same time: under valgrind a process uses one core. A run that fails is done once more: under
/// valgrind on a busy machine a call may miss its deadline.
///
/// # Errors
/// When a run has failed twice.
pub fn short_and_long<J: Copy + Send + Sync, T: Send>(
    short: J,
    long: J,
    collect: impl Fn(J) -> Result<T> + Sync,
) -> Result<(T, T)> {
    let collect = |run| collect(run).or_else(|_| collect(run));
    thread::scope(|scope| {
        let short = scope.spawn(|| collect(short));
        let long = collect(long);
        let short = short.join().map_err(|_| Error::new("the short run was not watched to its end"))?;
        Ok((short?, long?))
    })
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn no_valgrind(error: std::io::Error) -> Error {
    Error::new(format!("valgrind does not run ({error}): install valgrind"))
}

/// What a process says of the first panic. Where a call fails, many workers say the same.
fn first_panic(said: &str) -> &str {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).unwrap_or(said)
}

/// Calls of the allocator's functions in a profile: `cfn=` names who is called, the next `calls=` says how often.
fn allocations(profile: &str) -> f64 {
    const FUNCTIONS: [&str; 4] = ["malloc", "calloc", "posix_memalign", "aligned_alloc"];
    let (mut is_allocator, mut count) = (false, 0.0);
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("cfn=") {
            // Behind an apostrophe callgrind writes how deep a function has called itself.
            is_allocator = FUNCTIONS.contains(&name.split('\'').next().unwrap_or(name));
        } else if let Some(calls) = line.strip_prefix("calls=")
            && is_allocator
        {
            count += calls.split(' ').next().and_then(|calls| calls.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    count
}
