//! What is done to an etcd: end it, freeze it, start it again.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{Etcd, is_alive, launch};
use crate::{Error, Result};

/// Seconds on two busy cores; what is longer is stuck.
const START_LIMIT: Duration = Duration::from_secs(20);
/// etcd waits about two seconds for open streams before it leaves on SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);

impl Etcd {
    /// Ends it at once (SIGKILL), frozen or not, and reaps it. Nothing happens when it is down.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill(); // fails only for a child that has ended
            let _ = child.wait();
        }
    }

    /// Ends it in good order (SIGTERM), which takes etcd up to about two seconds while streams are open.
    ///
    /// # Panics
    /// When it is still there after 15 seconds.
    pub fn terminate(&self) {
        self.try_terminate(STOP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    }

    /// As [`Etcd::terminate`], with a limit of one's own.
    ///
    /// # Errors
    /// When it is still there after `limit`; it is then killed.
    pub fn try_terminate(&self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // a frozen process would not see the first
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > deadline {
                self.kill();
                let endpoint = self.endpoint();
                let what = format!("etcd {endpoint} did not end within {limit:?} of SIGTERM: killed it");
                return Err(Error::new(what));
            }
            std::thread::sleep(POLL);
        }
        self.kill(); // it has ended: this only forgets the child
        Ok(())
    }

    /// Stops it where it stands (SIGSTOP): connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        // The signal is on its way when `kill` returns, and a busy etcd answers until it has arrived.
        let child = self.child();
        let Some(pid) = child.as_ref().map(Pid::from_child) else { return };
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let deadline = Instant::now() + Duration::from_secs(1);
        while matches!(waitid(WaitId::Pid(pid), options), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it run on after [`Etcd::freeze`] (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal; nothing happens when it is down.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = self.child().as_ref() {
            // The child is not reaped while the lock is held, so the pid is still its own.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Starts it again with the same ports and data, and waits until it is healthy.
    ///
    /// # Panics
    /// When it is running, or does not become healthy.
    pub fn start_again(&self) {
        self.start_again_nowait();
        self.wait_healthy().unwrap_or_else(|error| panic!("{error}"));
    }

    /// As [`Etcd::start_again`], without waiting for health.
    ///
    /// # Panics
    /// When it is running.
    pub fn start_again_nowait(&self) {
        self.spawn().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Removes all of its data: the next start is a new, empty etcd at the same address.
    ///
    /// # Panics
    /// When it is running.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "etcd {} is running: kill it before wiping it", self.endpoint());
        let data = launch::data_dir(self.dir.path());
        if data.exists() {
            fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("removing {}: {error}", data.display()));
        }
    }

    /// Keeps a copy of its data beside them, in place of an earlier one.
    ///
    /// # Panics
    /// When it is running: what is written meanwhile would be half of something.
    pub fn save(&self) {
        assert!(!self.is_running(), "etcd {} is running: kill it before saving its data", self.endpoint());
        self.copy(&launch::data_dir(self.dir.path()), &launch::saved_dir(self.dir.path()));
    }

    /// Puts its data back to what was saved last: an etcd that is restored from an old snapshot.
    ///
    /// # Panics
    /// When it is running, or nothing was saved.
    pub fn restore(&self) {
        assert!(!self.is_running(), "etcd {} is running: kill it before restoring its data", self.endpoint());
        self.copy(&launch::saved_dir(self.dir.path()), &launch::data_dir(self.dir.path()));
    }

    fn copy(&self, from: &Path, to: &Path) {
        let copied = copy_dir(from, to);
        copied.unwrap_or_else(|error| panic!("copying the data of etcd {}: {error}", self.endpoint()));
    }

    pub(crate) fn spawn(&self) -> Result<()> {
        let mut child = self.child();
        if child.as_mut().is_some_and(is_alive) {
            return Err(Error::new(format!("etcd {} is running: end it before starting it again", self.endpoint())));
        }
        *child = Some(self.launch.spawn(self.dir.path())?);
        Ok(())
    }

    /// Polls until the etcd that answers is this very child, and healthy.
    pub(crate) fn wait_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if !self.is_running() {
                return Err(self.did_not_start("ended before it was healthy"));
            }
            if self.health() && self.is_mine() && self.is_running() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.did_not_start(&format!("was not healthy within {START_LIMIT:?}")));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A folder and all that is in it, in place of what was there.
fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
