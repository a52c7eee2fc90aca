//! Calls: what one costs by the number of servers, and what servers get of calls that they refuse.
//!
//! | file | what |
//! |---|---|
//! | `refused.rs` | calls that all servers refuse, and calls that one of many does |
//! | `policies.rs` | a call that a server takes, by policy |
//! | `client.rs` | the calls of a process |
//! | `refusing.rs` | servers that refuse every call |

mod client;
mod policies;
mod refused;
mod refusing;

use std::fmt;

use serde::{Deserialize, Serialize};
use test_support::{Process, Result};

use crate::findings::Findings;
use crate::{job, servers};

pub(crate) const NAME: &str = "calls";

const SERVERS: [usize; 4] = [3, 30, 300, MANY];
const FEW: usize = SERVERS[0];
const MANY: usize = 3_000;

/// What a process is told.
#[derive(Serialize, Deserialize)]
enum Job {
    /// So many servers that answer.
    Serve(usize),
    /// So many that refuse every call.
    Refuse(usize),
    /// Makes calls that these servers refuse.
    Refused(refused::Job),
    /// Makes calls that these servers take.
    Taken(policies::Job),
}

pub(crate) fn rows(found: &mut Findings) {
    test_support::raise_fd_limit();
    refused::rows(found);
    policies::rows(found);
}

pub(crate) fn job(argument: &str) {
    test_support::raise_fd_limit();
    match serde_json::from_str(argument).expect("a job") {
        Job::Serve(count) => servers::serve(count),
        Job::Refuse(count) => refusing::serve(count),
        Job::Refused(job) => refused::make_calls(&job),
        Job::Taken(job) => policies::make_calls(&job),
    }
}

/// A process with servers, and their addresses. They end with it.
fn start(job: &Job) -> (Process, Vec<String>) {
    let process = job::spawn(NAME, &job.to_string());
    let addresses = servers::addresses(&process);
    (process, addresses)
}

/// The instructions of such a process in the function of that name.
fn instructions_within(function: &str, job: &Job) -> Result<f64> {
    job::instructions_within(function, NAME, &job.to_string())
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).expect("a job is JSON"))
    }
}
