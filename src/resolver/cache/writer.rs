//! The thread of a resolver that reads and writes its cache files.
//!
//! It starts with the first job and ends with the last user of the resolver, after the jobs that
//! wait then. Nobody waits for it: tasks hand over the latest state of a service, and the end of the
//! process ends it. It is no task of a runtime, because a runtime waits for its blocking tasks when it ends,
//! and a disk may hang.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::time::Instant;

use crate::resolver::cache::queue::{Next, Queue};
use crate::resolver::cache::store::Store;

/// Code that reads, on the thread.
pub(super) type Read = Box<dyn FnOnce(&Store) + Send>;
/// Code that writes, on the thread. Tells whether it has tried to write a file, which costs a flush of
/// the disk.
pub(super) type Write = Box<dyn FnOnce(&Store) -> bool + Send>;

/// What the thread does next.
enum Job {
    Read(Read),
    Write(Write),
}

/// The thread, as its users hold it.
pub(super) struct Writer {
    shared: Arc<Shared>,
}

/// What the thread and its users share.
struct Shared {
    store: Store,
    /// The start of the time that the queue is given.
    epoch: Instant,
    state: Mutex<State>,
    /// There is a job, or the last user has gone.
    woken: Condvar,
}

struct State {
    /// They come before all others, without a pace; each with the name of its file.
    reads: VecDeque<(String, Read)>,
    writes: Queue<Write>,
    is_running: bool,
    is_closed: bool,
}

impl Writer {
    /// A thread for the files of a folder, which is not started yet.
    pub(super) fn new(directory: PathBuf) -> Self {
        let state = State { reads: VecDeque::new(), writes: Queue::new(), is_running: false, is_closed: false };
        let shared = Shared {
            store: Store::new(directory),
            epoch: Instant::now(),
            state: Mutex::new(state),
            woken: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The path of a file.
    #[cfg(test)]
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.shared.store.path(file)
    }

    /// Reads a file as soon as possible. A job that waits to write this file comes first: what it
    /// writes is newer.
    ///
    /// # Errors
    /// When the thread cannot be started. Then the job is dropped.
    pub(super) fn read(&self, file: &str, job: Read) -> io::Result<()> {
        self.push(|state| state.reads.push_back((file.to_owned(), job)))
    }

    /// Writes a file when its turn has come, unless a later job for the same file comes before.
    ///
    /// # Errors
    /// When the thread cannot be started. Then the job is dropped.
    pub(super) fn write(&self, file: &str, job: Write) -> io::Result<()> {
        self.push(|state| state.writes.put(file, job))
    }

    /// Adds a job, and starts the thread where it does not run.
    fn push(&self, add: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.shared.lock();
        if !state.is_running {
            // Starting a thread runs no code of ours before this lock is free.
            let shared = self.shared.clone();
            thread::Builder::new().name("tonic-etcd-cache".into()).spawn(move || shared.run())?;
            state.is_running = true;
        }
        add(&mut state);
        drop(state);
        self.shared.woken.notify_one();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.woken.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs jobs until the last user has gone and none is left.
    fn run(&self) {
        let mut is_swept = false;
        while let Some(job) = self.next() {
            match job {
                Job::Read(read) => read(&self.store),
                Job::Write(write) => {
                    if !std::mem::replace(&mut is_swept, true) {
                        self.store.sweep();
                    }
                    if write(&self.store) {
                        self.lock().writes.wrote(self.epoch.elapsed());
                    }
                }
            }
        }
    }

    /// Waits for the next job. `None` when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some((file, read)) = state.reads.pop_front() {
                let Some(write) = state.writes.take(&file) else { return Some(Job::Read(read)) };
                state.reads.push_front((file, read));
                return Some(Job::Write(write));
            }
            let now = self.epoch.elapsed();
            state = match state.writes.next(now) {
                Next::Do(_, job) => return Some(Job::Write(job)),
                Next::Wait(until) => {
                    let waited = self.woken.wait_timeout(state, until.saturating_sub(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Next::Idle if state.is_closed => return None,
                Next::Idle => self.woken.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A later job for the same file replaces the one that waits, and its result is left on the disk
    /// although the writer has gone by then.
    #[test]
    fn the_last_state_is_written_although_it_came_within_the_pace_and_the_writer_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().into());
        let (sender, done) = mpsc::channel();
        let began = Instant::now();
        for number in 0..1_000 {
            let sender = sender.clone();
            let job = move |store: &Store| {
                store.write("file", number.to_string().as_bytes()).unwrap();
                sender.send(number).unwrap();
                true
            };
            writer.write("file", Box::new(job)).unwrap();
        }
        drop((writer, sender));
        let written: Vec<i32> = done.iter().collect(); // ends when the thread has ended
        assert_eq!(written.last(), Some(&999));
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"999");
        let most = began.elapsed().as_millis() / 100 + 1;
        assert!(written.len() as u128 <= most, "{} files", written.len());
    }

    #[test]
    fn reads_do_not_wait_for_the_pace() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().into());
        let (sender, order) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        // Holds the thread until everything is handed over.
        writer.read("x", Box::new(move |_| wait.recv().unwrap())).unwrap();
        let begin = |name: &'static str| {
            let sender = sender.clone();
            move || sender.send(name).unwrap()
        };
        for (file, name) in [("a", "write a"), ("b", "write b"), ("c", "write c")] {
            let done = begin(name);
            let job = move |_: &Store| {
                done();
                true
            };
            writer.write(file, Box::new(job)).unwrap();
        }
        for (file, name) in [("x", "read x"), ("b", "read b")] {
            let done = begin(name);
            writer.read(file, Box::new(move |_| done())).unwrap();
        }
        go.send(()).unwrap();
        let order: Vec<_> = (0..5).map(|_| order.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
        assert_eq!(order, ["read x", "write b", "read b", "write a", "write c"]);
    }
}
