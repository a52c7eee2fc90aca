//! Members that SRV records name (RFC 2782), as `etcdctl --discovery-srv` finds them.
//!
//! `lookup.rs` asks DNS, `records.rs` (pure) orders the answer, and this file keeps the result up
//! to date.
//!
//! **When.** Before the first connection a request waits for the lookup. After that a background
//! task looks up: every 10 s while etcd is used, and sooner while no member answers, but not more
//! often than the TTL and once a second.
//!
//! **What a lookup changes.** Two kinds of records are looked up, with and without TLS. Records
//! replace the last ones of their kind. An answer without records removes those of its kind while
//! the other kind has some. A failed lookup, or one that leaves no member, changes nothing and is
//! logged once.

mod lookup;
pub(crate) mod records;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::lookup::{SrvAnswer, look_up};
use self::records::{Record, ordered_members};
use crate::address::domain::Domain;
use crate::etcd::failure::{Class, Failure, Fault};
use crate::etcd::link::links::{TaskGuard, WANTED_FOR};
use crate::etcd::options::SrvOptions;
use crate::etcd::{Core, Source};

/// The interval between two lookups, whatever the TTL of the records: a set that was replaced must
/// not be kept for a day.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest interval between two lookups, also where no member answers and the TTL is 0.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a lookup may take. Less than a request waits for a connection, so that the request's
/// error says why there is none.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(4_500);

/// The longest name that is looked up: the one of members with TLS. For the validation of the
/// options, because DNS names have at most 253 characters.
pub(crate) fn longest_name(domain: &Domain, name: Option<&str>) -> String {
    records::record_name(domain.as_str(), true, name)
}

/// The last lookup, and what asks for the next one.
pub(crate) struct SrvState {
    /// The last lookup. Locked during a lookup, so that one runs at a time.
    last: Mutex<LastLookup>,
    /// Notified when no member could be connected.
    wanted: Arc<Notify>,
    /// The seed of the order of members with equal priority: each process has its own, and keeps
    /// it.
    seed: u64,
}

/// The last lookup.
#[derive(Default)]
struct LastLookup {
    /// When it ended.
    read: Option<Instant>,
    /// The shortest TTL of its records; zero where it failed.
    ttl: Duration,
    /// The last records of members without TLS.
    plain: Vec<Record>,
    /// The last records of members with TLS.
    secure: Vec<Record>,
    /// Whether the failure was logged.
    is_failing: bool,
}

impl LastLookup {
    /// When another lookup may start while no member answers.
    fn due(&self) -> Option<Instant> {
        self.read.map(|read| read + self.ttl.clamp(MIN_INTERVAL, REFRESH_INTERVAL))
    }
}

impl SrvState {
    /// No lookup yet.
    pub(crate) fn new() -> Self {
        Self { last: Mutex::default(), wanted: Arc::default(), seed: fastrand::u64(..) }
    }
}

impl Core {
    /// Reads the records now where no member is known. Otherwise asks the background task to read
    /// them, and does not wait.
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
            // Made before the task. A runtime that ends drops its tasks unpolled, and the guard's
            // `Drop` takes the lock.
            let finding = TaskGuard::new(self, |state| &mut state.is_finding);
            let wanted = self.links.srv_state.wanted.clone();
            let task = tokio::spawn(refresh(finding, srv.clone(), wanted)).abort_handle();
            self.links.store_task(task, |state| &mut state.finding);
        }
    }

    /// Reads the records and takes the members, unless that was done within the TTL. Callers wait
    /// for each other.
    ///
    /// What cannot be read leaves the last members.
    async fn read_records(&self, srv: &SrvOptions) {
        let srv_state = &self.links.srv_state;
        let mut last = srv_state.last.lock().await;
        if last.due().is_some_and(|due| due > Instant::now()) {
            return;
        }
        let Ok(domain) = srv.domain() else { return }; // validated with the options
        let Source::Options(options) = &self.links.source else { return };
        // DNS is not protected. Where TLS is asked for, it must not lead to a member without TLS.
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
        let no_answer = || SrvAnswer::Failed(format!("no answer within {} ms", LOOKUP_TIMEOUT.as_millis()));
        let unanswered = |is_wanted: bool| if is_wanted { no_answer() } else { SrvAnswer::NotAsked };
        let answers = timeout(LOOKUP_TIMEOUT, both).await;
        let (of_plain, of_secure) = answers.unwrap_or_else(|_| (unanswered(wants_plain), unanswered(wants_secure)));
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
                    // The last records of this kind stay, beside new ones of the other kind.
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
                failures.push("the records name no usable host".into());
            }
            return self.records_failed(&mut last, &failures.join("; "));
        }
        (last.ttl, last.plain, last.secure) = (ttl.unwrap_or_default(), plain, secure);
        if std::mem::take(&mut last.is_failing) {
            tracing::info!(parent: None, domain = domain.as_str(), "SRV lookup recovered");
        }
        let mut state = self.links.state();
        state.no_members = None;
        if state.set_found(named) {
            let members: Vec<String> = state.order().into_iter().map(|number| state.text(number)).collect();
            drop(state);
            tracing::info!(parent: None, domain = domain.as_str(), ?members, "etcd members found by SRV records");
            self.links.notify();
        }
    }

    /// Logs a failed lookup: at WARN the first time, then at DEBUG. The last members stay. Where
    /// there are none, requests fail with this reason.
    fn records_failed(&self, last: &mut LastLookup, error: &str) {
        let count = {
            let mut state = self.links.state();
            let message = format!("SRV lookup failed: {error}");
            state.no_members = Some(Failure::new(Class::Transient, message).with_fault(Fault::Connection));
            state.count()
        };
        if std::mem::replace(&mut last.is_failing, true) {
            tracing::debug!(parent: None, error, members = count, "SRV lookup failed, retrying");
        } else {
            tracing::warn!(parent: None, error, members = count, "SRV lookup failed, retrying; keeping the last members");
        }
    }
}

/// The background task: looks up in each interval while etcd is used, and sooner while no member
/// answers. Ends when etcd is not used any more: the next search starts it again.
async fn refresh(finding: TaskGuard, srv: SrvOptions, wanted: Arc<Notify>) {
    loop {
        // Up to 10 % sooner, so that a fleet that was started together does not ask together.
        let next = REFRESH_INTERVAL.mul_f64(0.9 + 0.1 * fastrand::f64());
        tokio::select! {
            () = sleep(next) => {}
            () = wanted.notified() => {
                let Some(core) = finding.core.upgrade() else { return };
                let due = core.links.srv_state.last.lock().await.due();
                drop(core);
                sleep_until(due.unwrap_or_else(Instant::now)).await;
            }
        }
        let Some(core) = finding.core.upgrade() else { return };
        let is_used = {
            let mut state = core.links.state();
            state.current().is_some() || state.is_connecting || state.last_wanted.elapsed() < WANTED_FOR
        };
        if !is_used {
            return;
        }
        // Does nothing where another caller has read them meanwhile.
        core.read_records(&srv).await;
    }
}
