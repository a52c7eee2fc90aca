//! The processes of the demo, and what is known of each.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Etcd, Process, Signal};

use super::output::{self, Call, Total};
use crate::error::{Error, Result};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// Longest wait for one step of one process; each takes well under a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Over which calls per second are counted.
const WINDOW: Duration = Duration::from_secs(1);

pub(crate) struct Fleet {
    // Dropped in this order: who calls first, the directory last.
    client: Option<Client>,
    servers: Vec<Server>,
    etcd: Etcd,
    examples: PathBuf,
    deadline: Instant,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) state: State,
    pub(crate) calls: u64,
    /// Calls at each tick of the last second.
    recent: VecDeque<(Instant, u64)>,
    process: Process,
    asked_to_leave: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Registered, until SIGTERM.
    Serving,
    /// Deregisters and finishes its calls, until it exits.
    Leaving,
    /// Has exited in good order.
    Left,
    /// Ended by SIGKILL: it said nothing to anyone, and etcd knows of it only when its lease ends.
    Killed,
}

struct Client {
    process: Process,
    /// Lines of it that are counted already.
    read: usize,
    counted: Total,
    total: Option<Total>,
}

impl Fleet {
    /// Starts etcd; nobody else yet. All of it must be over at `deadline`.
    pub(crate) fn start(workspace: &Workspace, tools: &Tools, deadline: Instant) -> Result<Self> {
        let etcd = Etcd::builder().binary(&tools.etcd.path).try_start()?;
        let examples = workspace.target().join("release/examples");
        Ok(Self { client: None, servers: Vec::new(), etcd, examples, deadline })
    }

    pub(crate) fn etcd_endpoint(&self) -> String {
        self.etcd.endpoint()
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Calls so far and failed ones among them.
    pub(crate) fn counted(&self) -> Total {
        self.client.as_ref().map_or(Total { calls: 0, failed: 0 }, |client| client.counted)
    }

    /// Starts a server and waits until it is registered.
    pub(crate) fn add_server(&mut self) -> Result<SocketAddr> {
        let process = Process::spawn(self.example("greeter_server").args(["--listen", "127.0.0.1:0"]))?;
        let line = process.wait_line(|line| line.starts_with("listening on "), self.patience())?;
        let address = output::listening(&line).ok_or_else(|| malformed("greeter_server", &line))?;
        let registered = format!("registered greeter/{address}");
        process.wait_line(|line| line == registered, self.patience())?;
        let recent = VecDeque::from([(Instant::now(), 0)]);
        self.servers.push(Server { address, state: State::Serving, calls: 0, recent, process, asked_to_leave: None });
        Ok(address)
    }

    pub(crate) fn start_client(&mut self) -> Result<()> {
        let process = Process::spawn(self.example("greeter_client").args(["--rate", "200"]))?;
        self.client = Some(Client { process, read: 0, counted: Total { calls: 0, failed: 0 }, total: None });
        Ok(())
    }

    pub(crate) fn ask_to_leave(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.process.signal(Signal::TERM);
        server.state = State::Leaving;
        server.asked_to_leave = Some(Instant::now());
    }

    /// As a crash is: without a word.
    pub(crate) fn kill(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.process.signal(Signal::KILL);
        server.state = State::Killed;
    }

    /// Counts new calls and looks after every process; gives the lines of calls that failed.
    pub(crate) fn tick(&mut self) -> Result<Vec<String>> {
        let failures = self.count_calls()?;
        if let Some(client) = self.client.as_ref().filter(|client| client.process.status().is_some()) {
            return Err(client.process.failed("died").into());
        }
        if !self.etcd.is_running() {
            return Err(Error::new(format!("etcd died; its log:\n{}", self.etcd.log())));
        }
        for server in &mut self.servers {
            server.remember_rate();
            server.look_after()?;
        }
        if Instant::now() > self.deadline {
            return Err(Error::new("the demo took too long: is the machine very busy?"));
        }
        Ok(failures)
    }

    /// Ends the client; its own total must agree with the lines it printed.
    pub(crate) fn end_client(&mut self) -> Result<(Total, Vec<String>)> {
        let patience = self.patience();
        let client = self.client.as_ref().ok_or_else(|| Error::new("there is no client to end"))?;
        client.process.signal(Signal::TERM);
        if !client.process.wait(patience)?.success() {
            return Err(client.process.failed("did not leave cleanly").into());
        }
        let failures = self.count_calls()?;
        let client = self.client.as_ref().ok_or_else(|| Error::new("there is no client to end"))?;
        match client.total {
            Some(total) if total == client.counted => Ok((total, failures)),
            Some(total) => Err(Error::new(format!(
                "greeter_client says calls={} failed={}, and printed lines for calls={} failed={}",
                total.calls, total.failed, client.counted.calls, client.counted.failed
            ))),
            None => Err(client.process.failed("did not print its total (`client: calls=N failed=N`)").into()),
        }
    }

    /// Ends those servers that still serve, all at once.
    pub(crate) fn end_servers(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            if self.servers[index].state == State::Serving {
                self.ask_to_leave(index);
            }
        }
        let patience = self.patience();
        for server in &mut self.servers {
            server.process.wait(patience)?;
            server.look_after()?;
        }
        Ok(())
    }

    pub(crate) fn end_etcd(&self) -> Result<()> {
        Ok(self.etcd.try_terminate(self.patience())?)
    }

    fn count_calls(&mut self) -> Result<Vec<String>> {
        let mut failures = Vec::new();
        let Some(client) = &mut self.client else { return Ok(failures) };
        let lines = client.process.lines_from(client.read);
        client.read += lines.len();
        for line in lines {
            if let Some(total) = output::total(&line) {
                client.total = Some(total);
                continue;
            }
            match output::call(&line).ok_or_else(|| malformed("greeter_client", &line))? {
                Call::Ok(address) => {
                    let server = self.servers.iter_mut().find(|server| server.address == address);
                    server
                        .ok_or_else(|| Error::new(format!("a server that nobody started answered: {line}")))?
                        .calls += 1;
                }
                Call::Failed => {
                    client.counted.failed += 1;
                    failures.push(format!("call {line}"));
                }
            }
            client.counted.calls += 1;
        }
        Ok(failures)
    }

    fn example(&self, name: &str) -> Command {
        let mut command = Command::new(self.examples.join(name));
        command.args(["--etcd", &self.etcd.endpoint(), "--service", "greeter"]);
        command
    }

    /// Never beyond the end of the whole demo.
    fn patience(&self) -> Duration {
        PATIENCE.min(self.deadline.saturating_duration_since(Instant::now()))
    }
}

impl Server {
    /// Calls answered per second, over the last one.
    pub(crate) fn per_second(&self) -> u64 {
        let front = self.recent.front().filter(|_| matches!(self.state, State::Serving | State::Leaving));
        let Some((since, calls)) = front else { return 0 };
        // At least a tick, so that the very first does not count for a thousand.
        ((self.calls - calls) as f64 / since.elapsed().as_secs_f64().max(0.1)).round() as u64
    }

    fn remember_rate(&mut self) {
        self.recent.push_back((Instant::now(), self.calls));
        while self.recent.front().is_some_and(|(since, _)| since.elapsed() > WINDOW) {
            self.recent.pop_front();
        }
    }

    /// A server may end only when asked, and in good order.
    fn look_after(&mut self) -> Result<()> {
        let asked_for = self.asked_to_leave.map(|since| since.elapsed());
        match (self.process.status(), self.state) {
            (None, State::Leaving) if asked_for > Some(PATIENCE) => {
                Err(self.process.failed(&format!("did not leave within {PATIENCE:?} of SIGTERM")).into())
            }
            (None, _) | (_, State::Left | State::Killed) => Ok(()),
            (Some(_), State::Serving) => Err(self.process.failed("died").into()),
            (Some(status), State::Leaving) => {
                self.process.wait(PATIENCE)?; // for the rest of its output
                let said = self.process.lines();
                let in_order = ["deregistered", "stopped"].iter().all(|line| said.iter().any(|said| said == line));
                if !status.success() || !in_order {
                    return Err(self
                        .process
                        .failed("did not leave cleanly (`deregistered`, `stopped`, exit 0)")
                        .into());
                }
                self.state = State::Left;
                Ok(())
            }
        }
    }
}

fn malformed(program: &str, line: &str) -> Error {
    Error::new(format!("{program} printed a line that the demo does not understand: {line:?}"))
}
