//! What the role may read, and how that changes.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, RoleRevokePermissionOptions};
use tokio::time::{Instant, sleep};
use tonic_etcd::Resolver;

use super::{channel, document, grant, has, holds, put, shows, with_role};
use crate::channel::server;
use crate::support::{World, naming, until};

async fn revoke_all_configs(root: &Client) {
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    root.auth_client().role_revoke_permission("role", "tonic-etcd/config/", Some(prefix)).await.unwrap();
}

/// The role may read all documents at first, and later its own alone. The channel does not go over to that one key: it follows
/// nothing until the program is started anew, and nothing says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_narrowed_to_its_own_key_goes_on_following_it() {
    let world = World::start().await;
    let (root, options) = with_role(&world, &[("tonic-etcd/config/", true)]).await;
    put(&root, "tonic-etcd/config/s", document("1s")).await;
    let resolver = Resolver::connect_lazy(options.clone()).unwrap();
    let channel = channel(&resolver, "s");
    shows(&channel, "the document", |status| status.text().is_some()).await;

    grant(&root, "tonic-etcd/config/s", false).await;
    revoke_all_configs(&root).await;
    // The watch that is open goes on in etcd; the next one is refused.
    world.etcd.kill();
    world.etcd.start_again();
    // Its token has gone with that etcd.
    let as_root = || ConnectOptions::new().with_user("root", "rootpw");
    let root = until("root", async || Client::connect([world.etcd.endpoint()], Some(as_root())).await.ok()).await;
    put(&root, "tonic-etcd/config/s", document("2s")).await;
    // A program that starts now has it.
    let fresh = self::channel(&Resolver::connect_lazy(options).unwrap(), "s");
    shows(&fresh, "the document", |status| status.text().is_some_and(|text| text.contains("\"2s\""))).await;
    let end = Instant::now() + Duration::from_secs(25);
    while !has(&channel, "\"2s\"") {
        let status = channel.service_config();
        assert!(
            Instant::now() < end,
            "25 s after the put: {status:?}; another channel, made now, has {:?}",
            fresh.service_config()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// The cache has a file of all documents, from when the role could read them. etcd is up, and its refusal of all of them lets that
/// file win over the one document that may be read, and that etcd has just told.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_document_never_wins_over_one_that_etcd_has_told() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, options) = with_role(&world, &[("tonic-etcd/config/", true)]).await;
    put(&root, "tonic-etcd/config/s", document("1s")).await;
    let resolver = || Resolver::builder(options.clone()).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"1s\"").await;
    drop(before);
    sleep(Duration::from_millis(500)).await;

    grant(&root, "tonic-etcd/config/s", false).await;
    revoke_all_configs(&root).await;
    put(&root, "tonic-etcd/config/s", document("2s")).await;
    let channel = channel(&resolver(), "s");
    sleep(Duration::from_secs(3)).await;
    assert!(has(&channel, "\"2s\""), "3 s after the start: {:?}", channel.service_config());
    put(&root, "tonic-etcd/config/s", document("3s")).await;
    shows(&channel, "the next document", |status| status.text().is_some_and(|text| text.contains("\"3s\""))).await;
}

/// "Where it may read neither, the code's settings hold", and a cache file is for a start while etcd is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_document_is_not_used_where_etcd_refuses_it() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, options) = with_role(&world, &[("tonic-etcd/config/", true)]).await;
    put(&root, "tonic-etcd/config/s", document("1s")).await;
    let resolver = || Resolver::builder(options.clone()).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"1s\"").await;
    drop(before);
    sleep(Duration::from_millis(500)).await;

    revoke_all_configs(&root).await;
    let channel = channel(&resolver(), "s");
    sleep(Duration::from_secs(3)).await;
    let status = channel.service_config();
    assert!(status.text().is_none() && status.error().is_some(), "etcd is up, and refuses it: {status:?}");
}

/// The cached document is in force when etcd's refusal comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_document_that_is_used_goes_when_etcd_refuses_it() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, options) = with_role(&world, &[("tonic-etcd/config/", true)]).await;
    put(&root, "tonic-etcd/config/s", document("1s")).await;
    let resolver = || Resolver::builder(options.clone()).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"1s\"").await;
    drop(before);

    revoke_all_configs(&root).await;
    world.etcd.freeze();
    let channel = channel(&resolver(), "s");
    shows(&channel, "the cached document", |status| status.text().is_some()).await;
    world.etcd.thaw();
    shows(&channel, "the refusal", |status| status.text().is_none() && status.error().is_some()).await;
}

/// Issue 17: where the role may read none, "said once, tried again every minute".
#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_refuses_is_not_asked_for_every_few_seconds() {
    let world = World::start().await;
    let (root, options) = with_role(&world, &[]).await;
    put(&root, "s/one", naming(&server())).await;
    let resolver = Resolver::connect_lazy(options).unwrap();
    let channels: Vec<_> = ["s", "s/a", "s/b", "s/c"].into_iter().map(|name| channel(&resolver, name)).collect();
    for channel in &channels {
        shows(channel, "word of the refusal", |status| status.error().is_some()).await;
    }
    sleep(Duration::from_secs(6)).await; // whatever is done at first
    let count = |label: &str| world.etcd.metric_with("grpc_server_handled_total", label).unwrap_or_default();
    let all = || {
        (
            count("grpc_code=\"PermissionDenied\",grpc_method=\"Range\""),
            count("grpc_method=\"Range\""),
            count("grpc_code=\"OK\",grpc_method=\"Authenticate\""),
        )
    };
    let before = all();
    sleep(Duration::from_secs(20)).await;
    let after = all();
    let (denied, asked, tokens) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    assert!(
        denied <= 5.0,
        "in 20 s five watches were refused {denied} times, with {asked} reads and {tokens} new tokens"
    );
}

/// "Why the last document was refused; or why it could not be read": where the role loses its right later, nothing is said.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_that_the_document_cannot_be_read_any_more() {
    let world = World::start().await;
    let (root, options) = with_role(&world, &[("tonic-etcd/config/", true)]).await;
    put(&root, "tonic-etcd/config/s", document("1s")).await;
    let channel = channel(&Resolver::connect_lazy(options).unwrap(), "s");
    shows(&channel, "the document", |status| status.text().is_some()).await;
    revoke_all_configs(&root).await;
    world.etcd.kill();
    world.etcd.start_again();
    let end = Instant::now() + Duration::from_secs(15);
    while channel.service_config().error().is_none() {
        assert!(Instant::now() < end, "15 s after etcd refuses it: {:?}", channel.service_config());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(has(&channel, "\"1s\""), "the last good one stays");
}
