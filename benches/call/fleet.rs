//! The processes: this program again, as servers that stay and as a client for each run.

use std::env;
use std::process::Command;
use std::time::Duration;

use test_support::Process;

use crate::job::{Figures, Job, Load, Side, Until};

/// Longer than anything here should ever take.
const PATIENCE: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_millis(150);

pub(crate) struct Fleet {
    /// Killed when this is dropped.
    _servers: Vec<Process>,
    addresses: Vec<String>,
}

/// One run of each job, in the order of the jobs.
pub(crate) type Round = Vec<Figures>;

impl Fleet {
    pub(crate) fn start(servers: usize) -> Self {
        let servers: Vec<Process> = (0..servers).map(|_| spawn(myself().arg("server"))).collect();
        let address = |server: &Process| server.wait_line(|_| true, PATIENCE).expect("a server's address");
        Self { addresses: servers.iter().map(address).collect(), _servers: servers }
    }

    pub(crate) fn job(&self, side: Side, servers: usize, load: Load, workers: usize, until: Until) -> Job {
        let warm_up = match until {
            Until::Passed(_) => Until::Passed(WARM_UP),
            Until::Done(_) => Until::Done(100),
        };
        Job { side, servers: self.addresses[..servers].to_vec(), load, workers, warm_up, until }
    }
}

/// Every job once in each round; which one is first changes, so that each has had every place.
pub(crate) fn rounds(count: usize, jobs: &[Job]) -> Vec<Round> {
    let round = |round: usize| {
        let mut figures = vec![None; jobs.len()];
        for turn in 0..jobs.len() {
            let job = (round + turn) % jobs.len();
            figures[job] = Some(run(&jobs[job]));
        }
        figures.into_iter().flatten().collect()
    };
    (0..count).map(round).collect()
}

/// One client process, from its start to its end.
fn run(job: &Job) -> Figures {
    let client = spawn(&mut client(myself(), job));
    let figures = client.wait_line(|_| true, PATIENCE).expect("a client's figures");
    client.wait(PATIENCE).expect("a client that ends");
    serde_json::from_str(&figures).expect("figures")
}

/// This program as the client of that job, behind whatever `command` is so far.
pub(crate) fn client(mut command: Command, job: &Job) -> Command {
    command.arg("client").arg(serde_json::to_string(job).expect("a job is JSON"));
    command
}

pub(crate) fn myself() -> Command {
    Command::new(env::current_exe().expect("the path of this program"))
}

fn spawn(command: &mut Command) -> Process {
    Process::spawn(command).expect("this program runs")
}
