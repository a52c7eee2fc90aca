//! What a channel to thousands of servers does by itself, and with calls: while all servers are down, while outlier
//! detection watches calls that fail, and while every server is at its limit of streams.

mod down;
mod ejection;
mod slots;

use serde::{Deserialize, Serialize};
use test_support::Process;

use crate::channels::{channel, connected, until};
use crate::findings::Findings;
use crate::{job, servers};

pub(crate) const NAME: &str = "pool";

/// As many servers as a channel has in each of these.
const MANY: usize = 3_000;

/// What a process is told.
#[derive(Serialize, Deserialize)]
enum Job {
    Serve(usize),
    ServeSlots(usize),
    Down(down::Run),
    Eject(ejection::Run),
    Free(slots::Run),
}

pub(crate) fn rows(found: &mut Findings) {
    down::rows(found);
    ejection::rows(found);
    slots::rows(found);
}

/// The processes.
pub(crate) fn job(argument: &str) {
    test_support::raise_fd_limit();
    match serde_json::from_str(argument).expect("a job") {
        Job::Serve(count) => servers::serve(count),
        Job::ServeSlots(count) => servers::serve_slots(count),
        Job::Down(run) => down::job(run),
        Job::Eject(run) => ejection::job(&run),
        Job::Free(run) => slots::job(&run),
    }
}

fn argument(job: &Job) -> String {
    serde_json::to_string(job).expect("a job is JSON")
}

fn spawn(job: &Job) -> Process {
    job::spawn(NAME, &argument(job))
}
