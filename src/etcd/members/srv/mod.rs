//! Members that SRV records name: looked up before the first connection, and again in the background.

mod lookup;
mod records;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::lookup::{Answer, look_up};
use self::records::{Record, members};
use crate::domain::Domain;
use crate::etcd::failure::{Class, Failure, Fault};
use crate::etcd::link::links::WANTED;
use crate::etcd::options::Srv;
use crate::etcd::{Core, Source};

/// The records are read again so often, whatever their TTL.
const EVERY: Duration = Duration::from_secs(10);
/// No sooner than so long after the last time, also where no member answers and the TTL is 0.
const LEAST: Duration = Duration::from_secs(1);
/// How long DNS may take: less than requests wait for a connection, so that they say why there is none.
const LIMIT: Duration = Duration::from_millis(4_500);

/// The longest name that is asked for.
pub(crate) fn longest_name(domain: &Domain, name: Option<&str>) -> String {
    records::name(domain.as_str(), true, name)
}

/// What is known of the records.
pub(crate) struct Finder {
    last: Mutex<Last>,
    /// No member could be connected.
    wanted: Arc<Notify>,
    seed: u64,
}

#[derive(Default)]
struct Last {
    read: Option<Instant>,
    ttl: Duration,
    plain: Vec<Record>,
    secure: Vec<Record>,
    is_failing: bool,
}

impl Last {
    /// When they may be read again where no member answers.
    fn due(&self) -> Option<Instant> {
        self.read.map(|read| read + self.ttl.clamp(LEAST, EVERY))
    }
}

impl Finder {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::default(), wanted: Arc::default(), seed: fastrand::u64(..) }
    }
}

impl Core {
    /// Reads the records where no member is known. Where some are, and none of them is connected, they are read again in the
    /// background, and nobody waits for that.
    pub(crate) async fn find(self: &Arc<Self>) {
        let Source::Options(options) = &self.links.source else { return };
        let Some(srv) = &options.srv else { return };
        if self.links.state().count() == 0 {
            self.read_records(srv).await;
        } else {
            self.links.finder.wanted.notify_one();
        }
        let begins = !std::mem::replace(&mut self.links.state().is_finding, true);
        if begins {
            // Made before the task, which a runtime that ends drops unpolled: its drop takes the lock.
            let finding = Finding(Arc::downgrade(self));
            let wanted = self.links.finder.wanted.clone();
            let task = tokio::spawn(keep(finding, srv.clone(), wanted)).abort_handle();
            self.links.keep(task, |state| &mut state.finding);
        }
    }

    /// Reads the records, unless that was done a moment ago; one after the other, whoever asks.
    async fn read_records(&self, srv: &Srv) {
        let finder = &self.links.finder;
        let mut last = finder.last.lock().await;
        if last.due().is_some_and(|due| due > Instant::now()) {
            return;
        }
        let Ok(domain) = srv.domain() else { return }; // checked with the options
        let Source::Options(options) = &self.links.source else { return };
        // Where TLS is asked for, DNS is not to lead to a member without it.
        let (wants_plain, wants_secure) = (!options.has_tls(), options.can_tls());
        let (plain, secure) = (
            records::name(domain.as_str(), false, srv.name.as_deref()),
            records::name(domain.as_str(), true, srv.name.as_deref()),
        );
        let both = async {
            tokio::join!(
                look_up(wants_plain.then_some(&*plain), &srv.servers),
                look_up(wants_secure.then_some(&*secure), &srv.servers),
            )
        };
        let limit = || Answer::Failed(format!("no answer within {} ms", LIMIT.as_millis()));
        let (of_plain, of_secure) = timeout(LIMIT, both).await.unwrap_or_else(|_| (limit(), limit()));
        last.read = Some(Instant::now());
        let ttl = of_plain.ttl().into_iter().chain(of_secure.ttl()).min();
        let mut failures = Vec::new();
        let (mut is_heard, mut found) = (false, Vec::new());
        for (name, answer, known) in [(&secure, of_secure, last.secure.clone()), (&plain, of_plain, last.plain.clone())]
        {
            match answer {
                Answer::Records { records, .. } => {
                    is_heard = true;
                    found.push(records);
                }
                Answer::NotAsked => found.push(Vec::new()),
                Answer::None(why) => {
                    failures.push(format!("{name}: {why}"));
                    found.push(Vec::new());
                }
                Answer::Failed(why) => {
                    failures.push(format!("{name}: {why}"));
                    // What is known of the one kind stays beside what is new of the other.
                    found.push(known);
                }
            }
        }
        let (plain, secure) = (found.pop().unwrap_or_default(), found.pop().unwrap_or_default());
        let all = secure.iter().map(|record| (record.clone(), true)).chain(plain.iter().map(|r| (r.clone(), false)));
        let named = members(&all.collect::<Vec<_>>(), finder.seed);
        if !is_heard || named.is_empty() {
            last.ttl = Duration::ZERO;
            if is_heard {
                failures.push("the records name no host that can be used".into());
            }
            return self.records_failed(&mut last, &failures.join("; "));
        }
        (last.ttl, last.plain, last.secure) = (ttl.unwrap_or_default(), plain, secure);
        if std::mem::take(&mut last.is_failing) {
            tracing::info!(parent: None, domain = domain.as_str(), "SRV records of etcd are read again");
        }
        let mut state = self.links.state();
        state.unknown = None;
        if state.find(named) {
            let members: Vec<String> = state.order().into_iter().map(|number| state.text(number)).collect();
            drop(state);
            tracing::info!(parent: None, domain = domain.as_str(), ?members, "members of etcd found by SRV records");
            self.links.tell();
        }
    }

    /// The last members stay.
    fn records_failed(&self, last: &mut Last, error: &str) {
        let count = {
            let mut state = self.links.state();
            let message = format!("no SRV records of etcd: {error}");
            state.unknown = Some(Failure::new(Class::Transient, message).with_fault(Fault::Connection));
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
async fn keep(finding: Finding, srv: Srv, wanted: Arc<Notify>) {
    loop {
        // A fleet that was started at once does not ask at once.
        let next = EVERY.mul_f64(0.9 + 0.1 * fastrand::f64());
        tokio::select! {
            () = sleep(next) => {}
            () = wanted.notified() => {
                let Some(core) = finding.0.upgrade() else { return };
                let due = core.links.finder.last.lock().await.due();
                drop(core);
                sleep_until(due.unwrap_or_else(Instant::now)).await;
            }
        }
        let Some(core) = finding.0.upgrade() else { return };
        let is_used = {
            let mut state = core.links.state();
            state.current().is_some() || state.is_connecting || state.wanted.elapsed() < WANTED
        };
        if !is_used {
            return;
        }
        // Another may have read them meanwhile.
        core.read_records(&srv).await;
    }
}

/// However it ends, also with its runtime: the next search begins anew.
struct Finding(Weak<Core>);

impl Drop for Finding {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.links.state().is_finding = false;
        }
    }
}
