//! What a call costs in instructions and allocations, counted by callgrind: the difference of two run lengths, so that start-up
//! falls out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use test_support::Signal;

use crate::fleet::{Fleet, PATIENCE, addresses, client, server, try_run};
use crate::job::{Deadline, Job, Load, ServerJob, Setting, Side, Until};
use crate::median;

/// Of three runs the one in the middle: with many workers, how many calls share a write differs a little. What has no bar is run
/// once.
fn runs(side: Side) -> usize {
    if matches!(side, Side::Ours | Side::Balanced) { 3 } else { 1 }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) side: Side,
    pub(crate) workers: usize,
    pub(crate) deadline: Deadline,
    pub(crate) setting: Setting,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    /// New blocks of memory, without the text of the request, which is the caller's own. A block that is made larger counts once.
    pub(crate) allocations: f64,
}

/// Counts each case once, whichever rows need it.
pub(crate) struct Counter {
    fleet: Fleet,
    known: RefCell<BTreeMap<Case, Result<Cost, String>>>,
}

/// How many calls each worker makes in the short and in the long run.
fn lengths(workers: usize) -> (u64, u64) {
    if workers == 1 { (400, 1_900) } else { (15, 75) }
}

impl Case {
    pub(crate) fn new(side: Side, workers: usize) -> Self {
        Self { side, workers, deadline: Deadline::None, setting: Setting::Nothing }
    }
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { fleet: Fleet::single_threaded(3), known: RefCell::default() }
    }

    /// What one call costs the client, over three servers.
    pub(crate) fn client(&self, case: Case) -> Result<Cost, String> {
        if let Some(known) = self.known.borrow().get(&case) {
            return known.clone();
        }
        let cost = self.count(case);
        self.known.borrow_mut().insert(case, cost.clone());
        cost
    }

    fn count(&self, case: Case) -> Result<Cost, String> {
        let (short, long) = lengths(case.workers);
        let job = |calls| Job {
            deadline: case.deadline,
            setting: case.setting,
            // The same in both runs.
            warm_up: Until::Done(if case.workers == 1 { 100 } else { 10 }),
            ..self.fleet.job(case.side, 3, Load::Unary, case.workers, Until::Done(calls))
        };
        let mut runs = Vec::new();
        for _ in 0..self::runs(case.side) {
            let (short, long) = both(&job(short), &job(long), collect_client)?;
            runs.push((long.0 - short.0, long.1 - short.1));
        }
        let calls = (long - short) as f64 * case.workers as f64;
        let middle = |count: fn(&(f64, f64)) -> f64| median(runs.iter().map(count).collect()) / calls;
        Ok(Cost { instructions: middle(|run| run.0), allocations: middle(|run| run.1) - 1.0 })
    }
}

/// What one call costs a tonic server, with one worker on one connection.
pub(crate) fn server_instructions(deadline: Deadline) -> Result<f64, String> {
    let (short, long) = lengths(1);
    let mut runs = Vec::new();
    for _ in 0..self::runs(Side::Ours) {
        let (short, long) = both(short, long, |calls| collect_server(deadline, calls))?;
        runs.push(long - short);
    }
    Ok(median(runs) / (long - short) as f64)
}

/// The short and the long run at the same time: under valgrind a process uses one core. A run that fails is done once more: under
/// valgrind on a busy machine a call may miss its deadline.
fn both<J: Copy + Send + Sync, T: Send>(
    short: J,
    long: J,
    collect: impl Fn(J) -> Result<T, String> + Sync,
) -> Result<(T, T), String> {
    let collect = |run| collect(run).or_else(|_| collect(run));
    thread::scope(|scope| {
        let short = scope.spawn(|| collect(short));
        let long = collect(long);
        let short = short.join().map_err(|_| "the short run was not watched to its end".to_owned())?;
        Ok((short?, long?))
    })
}

fn callgrind(out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--fair-sched=yes"]);
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(out);
    valgrind.arg(file);
    valgrind
}

/// Instructions and allocations of a client process from its start to its end.
fn collect_client(job: &Job) -> Result<(f64, f64), String> {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let out = folder.path().join("callgrind.out");
    let output = client(Some(callgrind(&out)), job)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind does not run ({error}): install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the client under valgrind failed: {}", first_panic(&said)));
    }
    let profile = std::fs::read_to_string(&out).map_err(|error| format!("callgrind wrote no profile: {error}"))?;
    Ok((instructions(&said)?, allocations(&profile)))
}

fn collect_server(deadline: Deadline, calls: u64) -> Result<f64, String> {
    let mut valgrind = callgrind(Path::new("/dev/null"));
    valgrind.arg(env::current_exe().expect("the path of this program"));
    let job = ServerJob { listeners: 1, first_fails: false, single_thread: true };
    let process = test_support::Process::spawn(&mut server(valgrind, job))
        .map_err(|error| format!("valgrind does not run ({error}): install valgrind"))?;
    let until = Until::Done(calls);
    let job = Job {
        side: Side::Ours,
        servers: addresses(&process),
        load: Load::Unary,
        deadline,
        setting: Setting::Nothing,
        single_thread: true,
        workers: 1,
        warm_up: Until::Done(100),
        until,
    };
    try_run(&job).map_err(|error| error.to_string())?;
    process.signal(Signal::TERM);
    process.wait(PATIENCE).map_err(|error| error.to_string())?;
    instructions(&process.errors().join("\n"))
}

/// What a process says of the first panic. Where a call fails, many workers say the same.
fn first_panic(said: &str) -> &str {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).unwrap_or(said)
}

/// The sum that callgrind says at its end.
fn instructions(said: &str) -> Result<f64, String> {
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| format!("callgrind counted nothing: {said}"))
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
