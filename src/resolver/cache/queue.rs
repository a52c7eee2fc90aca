//! Which file is written next, and when. PURE: the clock is an argument.
//!
//! One job waits for each file: the latest. A file that has waited longest comes first, so that one
//! service that changes all the time holds up no other.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The time between two files that are written: at most ten a second, however many services change. A
/// file costs a flush of the disk.
pub(super) const PACE: Duration = Duration::from_millis(100);

/// The jobs that wait.
pub(super) struct Queue<J> {
    /// The files, the next one first.
    order: VecDeque<String>,
    /// The latest job of each of them.
    latest: HashMap<String, J>,
    /// The next job starts no earlier: it may write a file.
    earliest: Duration,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<J> {
    /// Do this job.
    Do(String, J),
    /// Nothing before this time.
    Wait(Duration),
    /// Nothing waits.
    Idle,
}

impl<J> Queue<J> {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        Self { order: VecDeque::new(), latest: HashMap::new(), earliest: Duration::ZERO }
    }

    /// Adds a job in place of the one that waits for the same file.
    pub(super) fn put(&mut self, file: &str, job: J) {
        if self.latest.insert(file.to_owned(), job).is_none() {
            self.order.push_back(file.to_owned());
        }
    }

    /// Takes the next job.
    pub(super) fn next(&mut self, now: Duration) -> Next<J> {
        if !self.order.is_empty() && now < self.earliest {
            return Next::Wait(self.earliest);
        }
        let Some(file) = self.order.pop_front() else { return Next::Idle };
        match self.latest.remove(&file) {
            Some(job) => Next::Do(file, job),
            None => Next::Idle, // each file in the order has a job
        }
    }

    /// Takes the job of this file before its turn.
    pub(super) fn take(&mut self, file: &str) -> Option<J> {
        let job = self.latest.remove(file)?;
        self.order.retain(|waiting| waiting != file);
        Some(job)
    }

    /// A job has written a file. Jobs that do not are followed by the next one at once.
    pub(super) fn wrote(&mut self, now: Duration) {
        self.earliest = now + PACE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_last_job_of_each_file_is_done_and_no_more_than_ten_a_second(
            jobs in proptest::collection::vec((0u8..5, 0u64..300), 0..80)
        ) {
            let mut queue = Queue::new();
            let (mut now, mut started) = (Duration::ZERO, Vec::new());
            let (mut wanted, mut done) = (BTreeMap::new(), BTreeMap::new());
            let mut run = |queue: &mut Queue<usize>, now: &mut Duration, until: Duration| loop {
                match queue.next(*now) {
                    Next::Do(file, job) => {
                        started.push(*now);
                        done.insert(file, job);
                        queue.wrote(*now);
                    }
                    Next::Wait(at) if at <= until => *now = at,
                    Next::Wait(_) | Next::Idle => break *now = (*now).max(until.min(Duration::from_secs(3_600))),
                }
            };
            for (number, (file, pause)) in jobs.into_iter().enumerate() {
                let file = file.to_string();
                queue.put(&file, number);
                wanted.insert(file, number);
                let until = now + Duration::from_millis(pause);
                run(&mut queue, &mut now, until);
            }
            run(&mut queue, &mut now, Duration::MAX);
            prop_assert_eq!(queue.next(now + PACE), Next::Idle);
            prop_assert_eq!(done, wanted);
            prop_assert!(started.windows(11).all(|eleven| eleven[10] >= eleven[0] + Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_file_that_changes_all_the_time_holds_up_no_other() {
        let mut queue = Queue::new();
        let mut now = Duration::ZERO;
        queue.put("busy", 0);
        queue.put("calm", 0);
        let mut files = Vec::new();
        for number in 1..5 {
            let Next::Do(file, _) = queue.next(now) else { panic!("a job waits") };
            files.push(file);
            queue.wrote(now);
            queue.put("busy", number);
            now += PACE;
        }
        assert_eq!(files, ["busy", "calm", "busy", "busy"]);
        assert_eq!(queue.next(now), Next::Do("busy".into(), 4), "the latest");
        queue.wrote(now);
        queue.put("calm", 5);
        assert_eq!(queue.next(now), Next::Wait(now + PACE));
    }

    #[test]
    fn a_job_that_writes_no_file_holds_up_none() {
        let mut queue = Queue::new();
        (0..1_000).for_each(|number| queue.put(&number.to_string(), number));
        for number in 0..1_000 {
            assert_eq!(queue.next(Duration::ZERO), Next::Do(number.to_string(), number));
        }
    }

    #[test]
    fn a_job_is_taken_once() {
        let mut queue = Queue::new();
        (0..3).for_each(|number| queue.put(&number.to_string(), number));
        assert_eq!((queue.take("1"), queue.take("1"), queue.take("9")), (Some(1), None, None));
        queue.put("1", 4);
        let order: Vec<_> = (0..4).map(|_| queue.next(Duration::ZERO)).collect();
        let job = |number: usize, job| Next::Do(number.to_string(), job);
        assert_eq!(order, [job(0, 0), job(2, 2), job(1, 4), Next::Idle]);
    }
}
