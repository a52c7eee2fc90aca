//! What a call costs in instructions and allocations, counted by callgrind: the difference of two run lengths, so that start-up
//! falls out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use test_support::{Counts, Error, Process, Signal, callgrind, instructions, short_and_long, valgrind};

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
            let both = short_and_long(&job(short), &job(long), collect_client);
            runs.push(both.map_err(|error| error.to_string())?);
        }
        let calls = (long - short) as f64 * case.workers as f64;
        let middle = |count: fn(&Counts) -> f64| {
            median(runs.iter().map(|(short, long)| count(long) - count(short)).collect()) / calls
        };
        Ok(Cost { instructions: middle(|run| run.instructions), allocations: middle(|run| run.allocations) - 1.0 })
    }
}

/// What one call costs a tonic server, with one worker on one connection.
pub(crate) fn server_instructions(deadline: Deadline) -> Result<f64, String> {
    let (short, long) = lengths(1);
    let mut runs = Vec::new();
    for _ in 0..self::runs(Side::Ours) {
        let both = short_and_long(short, long, |calls| collect_server(deadline, calls));
        let (short, long) = both.map_err(|error| error.to_string())?;
        runs.push(long - short);
    }
    Ok(median(runs) / (long - short) as f64)
}

/// Instructions and allocations of a client process from its start to its end.
fn collect_client(job: &Job) -> Result<Counts, Error> {
    callgrind(|valgrind| client(Some(valgrind), job))
}

fn collect_server(deadline: Deadline, calls: u64) -> Result<f64, Error> {
    let mut valgrind = valgrind(Path::new("/dev/null"));
    valgrind.arg(env::current_exe().expect("the path of this program"));
    let job = ServerJob { listeners: 1, first_fails: false, single_thread: true };
    let process = Process::spawn(&mut server(valgrind, job))?;
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
    try_run(&job)?;
    process.signal(Signal::TERM);
    process.wait(PATIENCE)?;
    instructions(&process.errors().join("\n"))
}
