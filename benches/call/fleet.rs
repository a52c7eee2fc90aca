//! The processes: this program again, as servers that stay and as a client for each run.

use std::env;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use test_support::Process;

use crate::job::{Deadline, Figures, Job, Load, ServerJob, Setting, Side, Until};

/// Longer than anything here should ever take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_millis(100);

/// Where the client of volo-grpc lies, if `xtask` has built it.
const VOLO_CLIENT: &str = "VOLO_CLIENT";

pub(crate) struct Fleet {
    /// Killed when this is dropped.
    _processes: Vec<Process>,
    addresses: Vec<String>,
    single_thread: bool,
}

/// One run of each job, in the order of the jobs.
pub(crate) type Round = Vec<Figures>;

impl Fleet {
    /// That many servers, each a process.
    pub(crate) fn start(servers: usize) -> Self {
        Self::of(servers, ServerJob { listeners: 1, first_fails: false, single_thread: false })
    }

    /// The same on current-thread runtimes, the clients too.
    pub(crate) fn single_threaded(servers: usize) -> Self {
        Self::of(servers, ServerJob { listeners: 1, first_fails: false, single_thread: true })
    }

    /// That many servers in one process, the first of which fails every second call.
    pub(crate) fn with_a_failing_server(servers: usize) -> Self {
        Self::of(1, ServerJob { listeners: servers, first_fails: true, single_thread: false })
    }

    fn of(processes: usize, job: ServerJob) -> Self {
        let processes: Vec<Process> = (0..processes).map(|_| spawn(&mut server(myself(), job))).collect();
        Self {
            addresses: processes.iter().flat_map(addresses).collect(),
            _processes: processes,
            single_thread: job.single_thread,
        }
    }

    pub(crate) fn job(&self, side: Side, servers: usize, load: Load, workers: usize, until: Until) -> Job {
        let warm_up = match until {
            Until::Passed(_) => Until::Passed(WARM_UP),
            Until::Done(_) => Until::Done(100),
        };
        let (deadline, setting) = (Deadline::None, Setting::Nothing);
        let (servers, single_thread) = (self.addresses[..servers].to_vec(), self.single_thread);
        Job { side, servers, load, deadline, setting, single_thread, workers, warm_up, until }
    }
}

/// The addresses that a server process says.
pub(crate) fn addresses(process: &Process) -> Vec<String> {
    let line = process.wait_line(|_| true, PATIENCE).expect("a server's addresses");
    serde_json::from_str(&line).expect("a list of addresses")
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
pub(crate) fn run(job: &Job) -> Figures {
    try_run(job).expect("a client's figures")
}

/// The same, where a busy machine may keep a client from its deadlines.
pub(crate) fn try_run(job: &Job) -> Result<Figures, test_support::Error> {
    let client = spawn(&mut client(None, job));
    let figures = client.wait_line(|_| true, PATIENCE)?;
    client.wait(PATIENCE)?;
    Ok(serde_json::from_str(&figures).expect("figures"))
}

/// The client of that job, run by another program if there is one (valgrind).
pub(crate) fn client(by: Option<Command>, job: &Job) -> Command {
    let program = match job.side {
        Side::Volo => volo_client().expect("a job of volo-grpc only where its client is built"),
        _ => env::current_exe().expect("the path of this program"),
    };
    let mut command = by.map_or_else(
        || Command::new(&program),
        |mut by| {
            by.arg(&program);
            by
        },
    );
    command.arg("client").arg(serde_json::to_string(job).expect("a job is JSON"));
    command
}

/// This program as a server, behind whatever `command` is so far.
pub(crate) fn server(mut command: Command, job: ServerJob) -> Command {
    command.arg("server").arg(serde_json::to_string(&job).expect("a job is JSON"));
    command
}

/// The client of volo-grpc, which is a package of its own.
pub(crate) fn volo_client() -> Option<PathBuf> {
    env::var_os(VOLO_CLIENT).map(PathBuf::from)
}

pub(crate) fn myself() -> Command {
    Command::new(env::current_exe().expect("the path of this program"))
}

pub(crate) fn spawn(command: &mut Command) -> Process {
    Process::spawn(command).expect("this program runs")
}

/// Runs a client or a server on the runtime that its job asks for.
pub(crate) fn block_on<F: Future>(single_thread: bool, future: F) -> F::Output {
    use tokio::runtime::Builder;
    let mut builder = if single_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build().expect("a runtime").block_on(future)
}
