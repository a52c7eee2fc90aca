//! Members that do one thing no more, while another one does: what is asked of them goes there. And storms.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::proto::PbLeaseKeepAliveResponse;
use tokio::time::sleep;
use tonic::Status;
use tonic_etcd::{EtcdOptions, Registrar};

use crate::server::{Fake, Reply};
use crate::support::{PATIENCE, TTL, registered, resolve_with, until};

/// The members that are asked first, as many as are to be mute.
#[derive(Clone, Default)]
struct Mute(Arc<Mutex<BTreeSet<usize>>>);

impl Mute {
    fn is(&self, member: usize, most: usize) -> bool {
        let mut mute = self.0.lock().unwrap();
        if mute.len() < most {
            mute.insert(member);
        }
        mute.contains(&member)
    }
}

async fn members(count: usize) -> Vec<Fake> {
    let mut fakes = Vec::new();
    for _ in 0..count {
        let fake = Fake::start().await;
        fake.store(|store| store.put("s/1", "h:1"));
        fakes.push(fake);
    }
    fakes
}

fn options(fakes: &[Fake]) -> EtcdOptions {
    EtcdOptions::new(fakes.iter().map(Fake::endpoint))
}

#[tokio::test]
async fn what_one_member_does_not_do_another_is_asked_for() {
    tokio::join!(
        a_member_that_checks_no_passwords_is_passed_over(),
        a_member_that_creates_no_watches_is_passed_over(),
        a_third_member_renews_where_two_do_not(),
    );
}

async fn a_member_that_checks_no_passwords_is_passed_over() {
    let (fakes, mute) = (members(2).await, Mute::default());
    for (number, fake) in fakes.iter().enumerate() {
        let mute = mute.clone();
        fake.rpcs(|rpcs| {
            let rule = move |_: &mut _, _: &usize| if mute.is(number, 1) { Reply::Never } else { Reply::Honest };
            rpcs.authenticate.rule(rule);
        });
    }
    let resolution = resolve_with(options(&fakes).user("reader", "readerpw")).await;
    resolution.ready(PATIENCE).await.unwrap();
}

async fn a_member_that_creates_no_watches_is_passed_over() {
    let (fakes, mute) = (members(2).await, Mute::default());
    for (number, fake) in fakes.iter().enumerate() {
        let mute = mute.clone();
        fake.rpcs(|rpcs| {
            rpcs.watch.rule(move |_, _| if mute.is(number, 1) { Reply::Never } else { Reply::Honest });
        });
    }
    let resolution = resolve_with(options(&fakes)).await;
    resolution.ready(PATIENCE).await.unwrap();
    until("a watch at the other", || fakes.iter().all(|fake| fake.rpcs(|rpcs| !rpcs.watch.seen.is_empty()))).await;
}

async fn a_third_member_renews_where_two_do_not() {
    let (fakes, mute) = (members(3).await, Mute::default());
    for (number, fake) in fakes.iter().enumerate() {
        let mute = mute.clone();
        fake.rpcs(|rpcs| {
            rpcs.renew.rule(move |_, renewal| {
                if mute.is(number, 2) {
                    return Reply::Never;
                }
                Reply::Say(PbLeaseKeepAliveResponse { header: None, id: renewal.lease, ttl: 3 })
            });
        });
    }
    let registrar = Registrar::builder(options(&fakes)).ttl(TTL).connect_lazy().unwrap();
    let _registration = registered(&registrar, "h:1").await;
    until("a renewal at the third", || fakes.iter().all(|fake| fake.rpcs(|rpcs| !rpcs.renew.seen.is_empty()))).await;
}

/// Renewals that fail are tried ever more slowly, also where each is a connection of its own.
#[tokio::test]
async fn renewals_that_fail_are_no_storm() {
    tokio::join!(fail_over(None), fail_over(Some(1)));
}

async fn fail_over(streams: Option<u32>) {
    let fake = Fake::start_with(streams).await;
    fake.rpcs(|rpcs| rpcs.renew.rule(|_, _| Reply::Fail(Status::unavailable("etcdserver: no leader"))));
    let registrar = Registrar::builder([fake.endpoint()]).ttl(Duration::from_secs(60)).connect_lazy().unwrap();
    let _registration = registered(&registrar, "h:1").await;
    until("the first", || fake.rpcs(|rpcs| !rpcs.renew.seen.is_empty())).await;
    sleep(Duration::from_secs(10)).await;
    let seen = fake.rpcs(|rpcs| rpcs.renew.seen.len());
    assert!(seen < 40, "{seen} renewals in 10 s");
}
