//! Processes of a part: this program again, by itself or under callgrind.

use std::env;
use std::future::Future;
use std::process::Command;

use test_support::{Counts, Process, Result};

/// The first argument of such a process.
pub(crate) const WORD: &str = "job";

/// This program, as a process of that part.
pub(crate) fn command(part: &str, argument: &str) -> Command {
    with_arguments(Command::new(env::current_exe().expect("the path of this program")), part, argument)
}

/// The same, running.
pub(crate) fn spawn(part: &str, argument: &str) -> Process {
    Process::spawn(&mut command(part, argument)).expect("this program runs")
}

/// The instructions of such a process within the function of that name, which is not inlined, and in what that calls. Callgrind
/// counts calls everywhere, so that allocations are counted by `heap::profiler`.
pub(crate) fn instructions_within(function: &str, part: &str, argument: &str) -> Result<f64> {
    let counts = test_support::callgrind(|mut valgrind| {
        valgrind.arg("--collect-atstart=no").arg(format!("--toggle-collect=*{function}*"));
        valgrind.arg(env::current_exe().expect("the path of this program"));
        with_arguments(valgrind, part, argument)
    })?;
    Ok(counts.instructions)
}

/// What such a process costs from its start to its end.
pub(crate) fn count(part: &str, argument: &str) -> Result<Counts> {
    test_support::callgrind(|mut valgrind| {
        valgrind.arg(env::current_exe().expect("the path of this program"));
        with_arguments(valgrind, part, argument)
    })
}

/// Runs it on one thread: then counts repeat.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn with_arguments(mut command: Command, part: &str, argument: &str) -> Command {
    command.args([WORD, part, argument]);
    command
}
