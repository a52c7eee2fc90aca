//! A child process whose output is waited for.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result};

/// A child process: its stdout is read line by line, its stderr is kept for error messages, and it is
/// killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    lines: Vec<String>,
    errors: Vec<String>,
    /// Of the two streams: both ended means that nothing more will come.
    ended: usize,
}

impl Process {
    /// Starts `command`, with its stdout and stderr captured and nothing on stdin.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::spawn_with(command, Stdio::null())
    }

    /// As [`Process::spawn`], with this on stdin.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_with(command: &mut Command, stdin: impl Into<Stdio>) -> Result<Self> {
        let program = PathBuf::from(command.get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::new(format!("starting {}: {error}", program.display())))?;
        let output = Arc::new(Output::default());
        output.read(child.stdout.take(), |seen| &mut seen.lines);
        output.read(child.stderr.take(), |seen| &mut seen.errors);
        Ok(Self { name, child: Mutex::new(child), output })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The first line of stdout, from the very first on, for which `wanted` holds; waits for it.
    ///
    /// # Errors
    /// When the process ends, or `timeout` passes, before there is one; with the end of its output.
    pub fn wait_line(&self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Result<String> {
        self.wait_line_from(0, wanted, timeout).map(|(_, line)| line)
    }

    /// As [`Process::wait_line`], from the line at `start` on; also gives the index of the line found.
    ///
    /// # Errors
    /// As [`Process::wait_line`].
    pub fn wait_line_from(
        &self,
        start: usize,
        wanted: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<(usize, String)> {
        let deadline = Instant::now() + timeout;
        let mut next = start;
        let mut seen = self.output.seen();
        loop {
            if let Some(found) = seen.lines.iter().skip(next).position(|line| wanted(line)) {
                return Ok((next + found, seen.lines[next + found].clone()));
            }
            next = next.max(seen.lines.len());
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.ended == 2 || left.is_zero() {
                let why =
                    if seen.ended == 2 { "ended its output".to_owned() } else { format!("was silent for {timeout:?}") };
                drop(seen);
                return Err(self.failed(&format!("{why} before the line that was waited for")));
            }
            seen = self.output.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lines of stdout so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines_from(0)
    }

    /// The lines of stdout so far, from the one at `start` on.
    pub fn lines_from(&self, start: usize) -> Vec<String> {
        self.output.seen().lines.iter().skip(start).cloned().collect()
    }

    /// The lines of stderr so far.
    pub fn errors(&self) -> Vec<String> {
        self.output.seen().errors.clone()
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // Not reaped while the lock is held, so the pid is still its own.
        if let Ok(None) = child.try_wait() {
            let _ = kill_process(Pid::from_child(&child), signal);
        }
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Waits until it has ended and all of its output is read.
    ///
    /// # Errors
    /// When it is still there after `timeout`; with the end of its output.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.status() {
                // Whom it has started in its turn may hold the pipes open: not for long, then.
                let seen = self.output.seen();
                let patience = Duration::from_secs(1);
                drop(self.output.changed.wait_timeout_while(seen, patience, |seen| seen.ended < 2));
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("was still running after {timeout:?}")));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// An error about this process: what it did, how it stands and the end of what it said.
    pub fn failed(&self, what: &str) -> Error {
        let state = self.status().map_or_else(|| "running".to_owned(), |status| status.to_string());
        let seen = self.output.seen();
        let tail = |lines: &[String]| match &lines[lines.len().saturating_sub(8)..] {
            [] => "is empty".to_owned(),
            last => format!("ends:\n  {}", last.join("\n  ")),
        };
        let (lines, errors) = (tail(&seen.lines), tail(&seen.errors));
        Error::new(format!("{} {what} ({state}); stdout {lines}\nstderr {errors}", self.name))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill(); // fails only for one that has ended
        let _ = child.wait();
    }
}

impl Output {
    fn read(self: &Arc<Self>, stream: Option<impl Read + Send + 'static>, into: fn(&mut Seen) -> &mut Vec<String>) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let reader = stream.map(BufReader::new).into_iter();
            for line in reader.flat_map(|reader| reader.split(b'\n').map_while(io::Result::ok)) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                into(&mut output.seen()).push(line);
                output.changed.notify_all();
            }
            output.seen().ended += 1;
            output.changed.notify_all();
        });
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The binary of an example of this workspace, next to the program that asks: `target/<profile>/examples/NAME`.
///
/// `cargo test` builds all examples before it runs a test.
///
/// # Panics
/// When there is no such file: build it with `cargo build --example NAME`, in the same profile.
pub fn example_bin(name: &str) -> PathBuf {
    let program = env::current_exe().expect("the path of this program");
    let folder = program.parent().unwrap_or(&program);
    let profile = if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    let path = profile.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "no {}: build it with `cargo build --example {name}`, in the same profile", path.display());
    path
}
