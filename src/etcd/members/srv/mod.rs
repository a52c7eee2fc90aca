//! Members that SRV records name: looked up before the first connection, and again in the background.

mod lookup;
mod records;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::lookup::{SrvAnswer, look_up};
use self::records::{Record, ordered_members};
use crate::etcd::failure::{Class, Failure, Fault};
use crate::etcd::link::links::WANTED_FOR;
use crate::etcd::options::SrvOptions;
use crate::etcd::{Core, Source};

/// The records are read again so often, whatever their TTL.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// No sooner than so long after the last time, also where no member answers and the TTL is 0.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// How long DNS may take: less than requests wait for a connection, so that they say why there is none.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(4_500);

/// What is known of the records.
pub(crate) struct SrvState {
    last: Mutex<LastLookup>,
    /// No member could be connected.
    wanted: Arc<Notify>,
    seed: u64,
}

#[derive(Default)]
struct LastLookup {
    read: Option<Instant>,
    ttl: Duration,
    plain: Vec<Record>,
    secure: Vec<Record>,
    is_failing: bool,
}

impl LastLookup {
    /// When they may be read again where no member answers.
    fn due(&self) -> Option<Instant> {
        self.read.map(|read| read + self.ttl.clamp(MIN_INTERVAL, REFRESH_INTERVAL))
    }
}

impl SrvState {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::default(), wanted: Arc::default(), seed: fastrand::u64(..) }
    }
}

impl Core {
    /// Reads the records where no member is known. Where some are, and none of them is connected, they are read again in the
    /// background, and nobody waits for that.
    pub(crate) async fn find_members(self: &Arc<Self>) {
        let Source::Options(options) = &self.links.source else { return };
        let Some(srv) = &options.srv else { return };
        if self.links.state().count() == 0 {
            self.read_records(srv).await;
        } else {
            self.links.srv_state.wanted.notify_one();
        }
        let begins = !std::mem::replace(&mut self.links.state().is_finding, true);
        if begins {
            // Made before the task, which a runtime that ends drops unpolled: its drop takes the lock.
            let finding = FindGuard(Arc::downgrade(self));
            let wanted = self.links.srv_state.wanted.clone();
            let task = tokio::spawn(refresh(finding, srv.clone(), wanted)).abort_handle();
            self.links.store_task(task, |state| &mut state.finding);
        }
    }

    /// Reads the records, unless that was done a moment ago; one after the other, whoever asks.
    async fn read_records(&self, srv: &SrvOptions) {
        let srv_state = &self.links.srv_state;
        let mut last = srv_state.last.lock().await;
        if last.due().is_some_and(|due| due > Instant::now()) {
            return;
        }
        let Ok(domain) = srv.domain() else { return }; // checked with the options
        let Source::Options(options) = &self.links.source else { return };
        // Where TLS is asked for, DNS is not to lead to a member without it.
        let (wants_plain, wants_secure) = (!options.has_tls(), options.can_tls());
        let (plain, secure) = (
            records::record_name(domain.as_str(), false, srv.name.as_deref()),
            records::record_name(domain.as_str(), true, srv.name.as_deref()),
        );
        let both = async {
            tokio::join!(
                look_up(wants_plain.then_some(&*plain), &srv.servers),
                look_up(wants_secure.then_some(&*secure), &srv.servers),
            )
        };
        let limit = || SrvAnswer::Failed(format!("no answer within {} ms", LOOKUP_TIMEOUT.as_millis()));
        let (of_plain, of_secure) = timeout(LOOKUP_TIMEOUT, both).await.unwrap_or_else(|_| (limit(), limit()));
        last.read = Some(Instant::now());
        let ttl = of_plain.ttl().into_iter().chain(of_secure.ttl()).min();
        let mut failures = Vec::new();
        let (mut has_answer, mut found) = (false, Vec::new());
        for (name, answer, known) in [(&secure, of_secure, last.secure.clone()), (&plain, of_plain, last.plain.clone())]
        {
            match answer {
                SrvAnswer::Records { records, .. } => {
                    has_answer = true;
                    found.push(records);
                }
                SrvAnswer::NotAsked => found.push(Vec::new()),
                SrvAnswer::None(why) => {
                    failures.push(format!("{name}: {why}"));
                    found.push(Vec::new());
                }
                SrvAnswer::Failed(why) => {
                    failures.push(format!("{name}: {why}"));
                    // What is known of the one kind stays beside what is new of the other.
                    found.push(known);
                }
            }
        }
        let (plain, secure) = (found.pop().unwrap_or_default(), found.pop().unwrap_or_default());
        let all = secure.iter().map(|record| (record.clone(), true)).chain(plain.iter().map(|r| (r.clone(), false)));
        let named = ordered_members(&all.collect::<Vec<_>>(), srv_state.seed);
        if !has_answer || named.is_empty() {
            last.ttl = Duration::ZERO;
            if has_answer {
                failures.push("the records name no host that can be used".into());
            }
            return self.records_failed(&mut last, &failures.join("; "));
        }
        (last.ttl, last.plain, last.secure) = (ttl.unwrap_or_default(), plain, secure);
        if std::mem::take(&mut last.is_failing) {
            tracing::info!(parent: None, domain = domain.as_str(), "SRV records of etcd are read again");
        }
        let mut state = self.links.state();
        state.no_members = None;
        if state.set_found(named) {
            let members: Vec<String> = state.order().into_iter().map(|number| state.text(number)).collect();
            drop(state);
            tracing::info!(parent: None, domain = domain.as_str(), ?members, "members of etcd found by SRV records");
            self.links.notify();
        }
    }

    /// The last members stay.
    fn records_failed(&self, last: &mut LastLookup, error: &str) {
        let count = {
            let mut state = self.links.state();
            let message = format!("no SRV records of etcd: {error}");
            state.no_members = Some(Failure::new(Class::Transient, message).with_fault(Fault::Connection));
            state.count()
        };
        if std::mem::replace(&mut last.is_failing, true) {
            tracing::debug!(parent: None, error, members = count, "SRV records of etcd cannot be read");
        } else {
            tracing::warn!(parent: None, error, members = count, "SRV records of etcd cannot be read; keeping the last members");
        }
    }
}

/// Reads the records again while etcd is used: every 10 s, and sooner where no member answers.
async fn refresh(finding: FindGuard, srv: SrvOptions, wanted: Arc<Notify>) {
    loop {
        // A fleet that was started at once does not ask at once.
        let next = REFRESH_INTERVAL.mul_f64(0.9 + 0.1 * fastrand::f64());
        tokio::select! {
            () = sleep(next) => {}
            () = wanted.notified() => {
                let Some(core) = finding.0.upgrade() else { return };
                let due = core.links.srv_state.last.lock().await.due();
                drop(core);
                sleep_until(due.unwrap_or_else(Instant::now)).await;
            }
        }
        let Some(core) = finding.0.upgrade() else { return };
        let is_used = {
            let mut state = core.links.state();
            state.current().is_some() || state.is_connecting || state.last_wanted.elapsed() < WANTED_FOR
        };
        if !is_used {
            return;
        }
        // Another may have read them meanwhile.
        core.read_records(&srv).await;
    }
}

/// However it ends, also with its runtime: the next search begins anew.
struct FindGuard(Weak<Core>);

impl Drop for FindGuard {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.links.state().is_finding = false;
        }
    }
}
