//! `connect` waits for the first response of etcd, `connect_lazy` for nothing.

use std::time::Duration;

use test_support::{Etcd, FrameProxy, Rule};
use tokio::time::timeout;
use tonic_etcd::{Error, EtcdOptions, Registrar, Resolver};

use crate::support::{PATIENCE, World};

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Both answers to the same options: they must agree.
async fn connect(options: EtcdOptions) -> Result<(Resolver, Registrar), Error> {
    let resolver = timeout(PATIENCE, Resolver::connect(options.clone())).await.expect("bounded in time");
    let registrar = timeout(PATIENCE, Registrar::connect(options)).await.expect("bounded in time");
    assert_eq!(resolver.is_ok(), registrar.is_ok(), "{resolver:?} {registrar:?}");
    Ok((resolver?, registrar?))
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_finds_a_member_that_answers_and_keeps_the_connection() {
    let etcd = Etcd::start();
    let proxy = FrameProxy::to(etcd.address());
    let (resolver, _registrar) = connect(EtcdOptions::from([NOWHERE.to_owned(), proxy.endpoint()])).await.unwrap();
    assert_eq!(proxy.connections(), 2, "one of the resolver, one of the registrar");
    resolver.resolve("s").unwrap().ready(PATIENCE).await.unwrap();
    assert_eq!(proxy.connections(), 2, "resolving uses the connection that was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_says_that_no_member_can_be_reached() {
    let error = connect(EtcdOptions::from([NOWHERE])).await.unwrap_err();
    assert!(error.to_string().contains(NOWHERE) && !error.is_timeout(), "{error:?}");
    let lazy = Resolver::connect_lazy([NOWHERE]).unwrap();
    assert!(lazy.resolve("s").unwrap().last_error().is_none());
    assert!(connect(EtcdOptions::from(["ftp://h"])).await.unwrap_err().is_invalid_argument());
}

/// A member that is connected and does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn connecting_is_bounded_in_time() {
    let etcd = Etcd::start();
    let proxy = FrameProxy::to(etcd.address());
    proxy.rule(Rule::hold().method("Range"));
    let limits = EtcdOptions::from([proxy.endpoint()]).connect_timeout(Duration::from_millis(500));
    let error = connect(limits.request_timeout(Duration::from_secs(1))).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("1500 ms"), "{error:?}");
    assert!(format!("{error:?}").contains(&proxy.endpoint()), "{error:?}");
}

/// The first response needs no right beyond being the user: this one may read nothing but what begins with "s/".
#[tokio::test(flavor = "multi_thread")]
async fn connecting_works_with_a_role_of_one_prefix_and_names_what_etcd_refuses() {
    let world = World::start().await;
    let options = EtcdOptions::from([world.etcd.endpoint()]);
    let with_user = |password: &str| options.clone().user("user", password);
    // Where authentication is off, a user is not needed.
    connect(with_user("userpw")).await.unwrap();
    drop(world.protect("s/").await);
    let (resolver, _registrar) = connect(with_user("userpw")).await.unwrap();
    resolver.resolve("s").unwrap().ready(PATIENCE).await.unwrap();
    let wrong = connect(with_user("wrong")).await.unwrap_err();
    assert!(wrong.to_string().contains("authentication failed"), "{wrong:?}");
    let without = connect(options).await.unwrap_err();
    assert!(without.to_string().contains("user name is empty"), "{without:?}");
}

#[test]
fn connecting_needs_a_runtime_and_lazily_it_does_not() {
    let lazy = Resolver::connect_lazy([NOWHERE]).unwrap();
    assert!(lazy.resolve("s").unwrap_err().to_string().contains("tokio runtime"));
    Registrar::connect_lazy([NOWHERE]).unwrap();
    let mut connecting = std::pin::pin!(Resolver::connect([NOWHERE]));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut cx) else { panic!("it waits for nothing") };
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}
