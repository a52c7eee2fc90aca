//! Lists in pages, and what goes wrong between two of them.

use std::sync::{Arc, Mutex};

use etcd_client::proto::{PbRangeRequest, PbRangeResponse};
use tonic::Status;
use tonic_etcd::{Resolution, ResolutionState};

use crate::server::{Fake, Reply, Store};
use crate::support::{SLOW, gap, resolve, servers_are, starts, until, watching};

/// A page of two, whatever was asked for.
fn page(store: &Store, request: &PbRangeRequest) -> Reply<PbRangeResponse> {
    match store.range(&PbRangeRequest { limit: 2, ..request.clone() }) {
        Ok(page) => Reply::Say(page),
        Err(status) => Reply::Fail(status),
    }
}

/// Is the second page of a list, or a later one.
fn continues(request: &PbRangeRequest) -> bool {
    request.key != b"s/"
}

fn fill(store: &mut Store) {
    for port in 1..=5 {
        store.put(format!("s/{port}"), format!("h:{port}"));
    }
}

/// What a reader sees at each request for a page.
#[derive(Clone, Default)]
struct Glimpses {
    resolution: Arc<Mutex<Option<Resolution>>>,
    seen: Arc<Mutex<Vec<(ResolutionState, usize)>>>,
}

impl Glimpses {
    fn of(&self, resolution: &Resolution) {
        *self.resolution.lock().unwrap() = Some(resolution.clone());
    }

    fn take(&self) {
        if let Some(resolution) = &*self.resolution.lock().unwrap() {
            self.seen.lock().unwrap().push((resolution.state(), resolution.snapshot().len()));
        }
    }
}

#[tokio::test]
async fn a_revision_compacted_between_two_pages_is_listed_again() {
    let fake = Fake::start().await;
    fake.store(fill);
    let glimpses = Glimpses::default();
    let mut compactions = 1;
    let glance = glimpses.clone();
    fake.rpcs(|rpcs| {
        rpcs.range.rule(move |store, request| {
            glance.take();
            if continues(request) && compactions > 0 {
                compactions -= 1;
                store.delete(b"s/1");
                store.put("s/6", "h:6");
                store.compact();
            }
            page(store, request)
        });
    });
    let resolution = resolve(&fake).await;
    glimpses.of(&resolution);
    servers_are(&resolution, &["h:2", "h:3", "h:4", "h:5", "h:6"]).await;

    let seen = glimpses.seen.lock().unwrap().clone();
    assert_eq!(seen, [(ResolutionState::Unresolved, 0); 5], "half a list is not shown");
    fake.rpcs(|rpcs| {
        let pages: Vec<_> = rpcs.range.requests().map(|request| (request.revision, request.limit)).collect();
        let whole = 10_000;
        assert_eq!(pages, [(0, whole), (6, whole), (0, whole), (8, whole), (8, whole)], "each list at one revision");
        assert!(gap(&rpcs.range.seen, 1, 2) < SLOW, "what is compacted is listed again at once");
    });
    assert_eq!(starts(&fake, 1).await, [8]);
}

#[tokio::test]
async fn half_a_list_takes_nothing_from_what_is_known() {
    let fake = Fake::start().await;
    fake.store(fill);
    let resolution = watching(&fake).await;
    let glimpses = Glimpses::default();
    glimpses.of(&resolution);
    let mut failures = 3;
    let glance = glimpses.clone();
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| {
            store.delete(b"s/2");
            store.delete(b"s/4");
            store.compact();
            Reply::Honest
        });
        rpcs.range.rule(move |store, request| {
            glance.take();
            if !continues(request) || failures == 0 {
                return page(store, request);
            }
            failures -= 1;
            match failures {
                2 => {
                    store.put("s/6", "h:6");
                    store.compact();
                    page(store, request)
                }
                // The member that answers lags far behind the one that answered before.
                1 => Reply::Say(Store::default().range(&PbRangeRequest::default()).unwrap()),
                _ => Reply::Fail(Status::unavailable("etcdserver: leader changed")),
            }
        });
    });
    fake.cut();
    servers_are(&resolution, &["h:1", "h:3", "h:5", "h:6"]).await;
    let seen = glimpses.seen.lock().unwrap().clone();
    assert!(seen.iter().all(|(state, known)| *known == 5 && *state != ResolutionState::Unresolved), "{seen:?}");
    assert_eq!(fake.rpcs(|rpcs| rpcs.lists()), 1 + 3, "the last failure was of one page alone");
}

#[tokio::test]
async fn a_page_too_large_for_a_message_is_made_smaller() {
    let fake = Fake::start().await;
    fake.store(fill);
    fake.rpcs(|rpcs| {
        rpcs.range.rule(|store, request| {
            // Others write on; the list stays at its revision.
            store.put("s/1", "h:100");
            match request.limit {
                // The code of a compaction, and its contrary: asking again for the same is of no use.
                4.. => Reply::Fail(Status::out_of_range(
                    "Error, decoded message length too large: found 2147483651 bytes, the limit is: 2147483647 bytes",
                )),
                _ => Reply::Honest,
            }
        });
    });
    let resolution = resolve(&fake).await;
    servers_are(&resolution, &["h:100", "h:2", "h:3", "h:4", "h:5"]).await;
    fake.rpcs(|rpcs| {
        let limits: Vec<_> = rpcs.range.requests().map(|request| request.limit).collect();
        assert_eq!(limits, [10_000, 5_000, 2_500, 1_250, 625, 312, 156, 78, 39, 19, 9, 4, 2, 2, 2]);
        let revisions: Vec<_> = rpcs.range.requests().skip(12).map(|request| request.revision).collect();
        assert_eq!(revisions, [0, 19, 19]);
    });
    assert_eq!(starts(&fake, 1).await, [19]);
}

/// F18: a list that fails at its second page names no password, which a key may hold.
#[tokio::test]
async fn a_page_that_fails_names_no_password() {
    let fake = Fake::start().await;
    fake.store(|store| {
        store.put("s/1", "h:1");
        store.put("s/http://root:secret@h:2", "h:2");
        store.put("s/x", "h:3");
    });
    fake.rpcs(|rpcs| {
        rpcs.range.rule(|store, request| {
            if continues(request) {
                return Reply::Fail(Status::permission_denied("etcdserver: permission denied"));
            }
            page(store, request)
        });
    });
    let resolution = resolve(&fake).await;
    until("an error", || resolution.last_error().is_some()).await;
    let error = format!("{:?}", resolution.last_error());
    assert!(error.contains("listing") && !error.contains("secret"), "{error}");
}
