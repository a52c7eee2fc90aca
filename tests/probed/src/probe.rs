//! The subscriber, what it calls, and the watchdog.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A handle that can be asked all that it has to tell.
pub(crate) trait Probe: Send + Sync {
    fn ask(&self);
}

/// No accessor waits for anything: one that takes so long waits for itself.
const STUCK: Duration = Duration::from_secs(20);

static HANDLES: Mutex<Vec<Weak<dyn Probe>>> = Mutex::new(Vec::new());
static ASKING: Mutex<BTreeMap<String, (ThreadId, Instant)>> = Mutex::new(BTreeMap::new());
static SITES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

thread_local! {
    /// What asking logs by itself is not asked about.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(of: &'static Mutex<T>) -> MutexGuard<'static, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the handle is asked with each event, for as long as somebody else holds it.
pub(crate) fn probe(handle: &Arc<impl Probe + 'static>) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        thread::spawn(watch);
        // A test binary that has a subscriber of its own keeps it.
        let _ = tracing::subscriber::set_global_default(Prober);
    });
    let handle: Weak<dyn Probe> = Arc::downgrade(handle) as Weak<dyn Probe>;
    let mut handles = lock(&HANDLES);
    handles.retain(|handle| handle.strong_count() > 0);
    handles.push(handle);
}

/// Where events were logged until now, as `file:line`.
pub fn sites() -> BTreeSet<String> {
    lock(&SITES).clone()
}

struct Prober;

impl Subscriber for Prober {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tonic_etcd")
    }

    fn event(&self, event: &Event<'_>) {
        if IS_ASKING.replace(true) {
            return;
        }
        let metadata = event.metadata();
        let place = format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or_default());
        if lock(&SITES).insert(place.clone()) && std::env::var_os("PROBED_SITES").is_some() {
            say(&format!("probed at {place}"));
        }
        let me = thread::current().id();
        let key = format!("{place} ({me:?})");
        lock(&ASKING).insert(key.clone(), (me, Instant::now()));
        // Out of the lock, as all that may run anything.
        let handles: Vec<_> = lock(&HANDLES).iter().filter_map(Weak::upgrade).collect();
        handles.iter().for_each(|handle| handle.ask());
        drop(handles);
        lock(&ASKING).remove(&key);
        IS_ASKING.set(false);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Past what the test harness captures, which is lost with the process.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Ends the process where a handle does not answer.
fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let stuck = lock(&ASKING).iter().find(|(_, (_, since))| since.elapsed() > STUCK).map(|(key, _)| key.clone());
        if let Some(place) = stuck {
            say(&format!(
                "deadlock: an accessor that was called from the event at {place} has not returned: a lock is held there"
            ));
            std::process::abort();
        }
    }
}
