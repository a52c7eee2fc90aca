//! Service configs that stand in etcd.
//!
//! - `mod.rs`: one after the other, and what the other files share.
//! - `first_word.rs`: calls that begin before etcd, or the cache, has said anything.
//! - `health.rs`: documents that say whose health decides.
//! - `rights.rs`: what the role may read.
//! - `cached.rs`: cache files, and an etcd that has lost its data.
//! - `refused.rs`: what is refused.

mod cached;
mod first_word;
#[cfg(feature = "tonic-health")]
mod health;
mod refused;
mod rights;

use std::path::Path;
use std::time::Duration;

use etcd_client::{Client, Permission};
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use test_support::Log;
use tokio::time::{Instant, sleep};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_etcd::{
    BalancedChannel, EtcdOptions, Instance, Registrar, Resolver, ServiceConfigSource, ServiceConfigStatus,
};

use crate::support::{World, naming, until};

/// Answers nothing for a minute.
struct Slow;

#[tonic::async_trait]
impl Greeter for Slow {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<greeter_proto::HelloReply>, Status> {
        sleep(Duration::from_secs(60)).await;
        Err(Status::internal("late"))
    }
}

fn slow_server() -> String {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Slow));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

fn channel(resolver: &Resolver, service: &str) -> BalancedChannel {
    let builder = BalancedChannel::builder().timeout(Duration::from_secs(2)).service_config_from_etcd();
    builder.build(&resolver.resolve(service).unwrap()).unwrap()
}

fn document(timeout: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "{timeout}"}}]}}"#)
}

/// How long a call lasts.
async fn lasts(channel: &BalancedChannel) -> Duration {
    let began = Instant::now();
    let status = GreeterClient::new(channel.clone()).say_hello(HelloRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    began.elapsed()
}

fn revision_of(source: Option<&ServiceConfigSource>) -> Option<i64> {
    let Some(ServiceConfigSource::Etcd { revision, .. }) = source else { panic!("{source:?}") };
    *revision
}

async fn shows(channel: &BalancedChannel, what: &str, wanted: impl Fn(&ServiceConfigStatus) -> bool) {
    until(what, async || Some(channel.service_config()).filter(|status| wanted(status)).map(drop)).await;
}

fn has(channel: &BalancedChannel, text: &str) -> bool {
    channel.service_config().text().is_some_and(|found| found.contains(text))
}

/// The options of "user", whose role may read the instances of "s" and these keys.
async fn with_role(world: &World, keys: &[(&str, bool)]) -> (Client, EtcdOptions) {
    let root = world.protect("s/").await;
    for (key, is_prefix) in keys {
        grant(&root, key, *is_prefix).await;
    }
    (root, EtcdOptions::new([world.etcd.endpoint()]).user("user", "userpw"))
}

async fn grant(root: &Client, key: &str, is_prefix: bool) {
    let permission = Permission::read(key);
    let permission = if is_prefix { permission.with_prefix() } else { permission };
    root.auth_client().role_grant_permission("role", permission).await.unwrap();
}

async fn put(root: &Client, key: &str, value: impl Into<Vec<u8>>) {
    root.kv_client().put(key, value, None).await.unwrap();
}

async fn holds(file: &Path, text: &str) {
    let found = || {
        let bytes = std::fs::read(file).ok()?;
        bytes.windows(text.len()).any(|part| part == text.as_bytes()).then_some(())
    };
    until(&format!("{text:?} in {}", file.display()), async || found()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_changes_the_timeouts_of_a_fleet() {
    let world = World::start().await;
    world.put("shop/payments/one", &naming(&slow_server())).await;
    let resolver = world.resolver();
    let channel = channel(&resolver, "shop/payments");
    let key = "tonic-etcd/config/shop%2Fpayments";
    shows(&channel, "word of etcd", |status| status.source().is_some() && status.text().is_none()).await;
    assert_eq!(revision_of(channel.service_config().source()), None, "there is no document");
    assert!(lasts(&channel).await > Duration::from_millis(1_500), "the code's");

    world.put(key, &document("0.1s")).await;
    shows(&channel, "the document", |status| status.text().is_some()).await;
    let status = channel.service_config();
    let Some(ServiceConfigSource::Etcd { key: found, revision, .. }) = status.source() else { panic!("{status:?}") };
    let first = world.revision().await;
    assert_eq!((&**found, *revision), (key, Some(first)));
    assert!(lasts(&channel).await < Duration::from_secs(1));

    world.put(key, &document("soon")).await;
    shows(&channel, "word of the broken one", |status| status.error().is_some()).await;
    let status = channel.service_config();
    assert!(status.error().unwrap().starts_with("methodConfig[0].timeout: "), "{status:?}");
    assert!(status.text().unwrap().contains("0.1s"));
    assert_eq!(revision_of(status.source()), Some(first), "that of the document in force");
    assert_eq!(revision_of(status.error_source()), Some(world.revision().await), "that of the broken one");
    assert!(lasts(&channel).await < Duration::from_secs(1), "the last good one stays");

    // etcd is away: the last one stays, and what comes then is seen when etcd is back.
    world.put(key, &document("0.2s")).await;
    shows(&channel, "the next one", |status| status.text().is_some_and(|text| text.contains("0.2s"))).await;
    world.etcd.kill();
    assert!(lasts(&channel).await < Duration::from_secs(1));
    world.etcd.start_again();
    world.delete(key).await;
    shows(&channel, "no document", |status| status.text().is_none()).await;
    assert_eq!(revision_of(channel.service_config().source()), None);
    assert!(lasts(&channel).await > Duration::from_millis(1_500), "the code's again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_watch_serves_all_services_and_other_keys_concern_nobody() {
    let world = World::start().await;
    let resolver = world.resolver();
    let channels: Vec<_> = ["a", "b", "c"].into_iter().map(|service| channel(&resolver, service)).collect();
    for channel in &channels {
        shows(channel, "word of etcd", |status| status.source().is_some()).await;
    }
    until("four watches", async || (world.watches() == 4).then_some(())).await;
    for key in ["tonic-etcd/config/d", "tonic-etcd/config/a/b", "tonic-etcd/config", "tonic-etcd/overrides/a/b"] {
        world.put(key, "broken").await;
    }
    world.put("tonic-etcd/config/c", "{}").await;
    shows(&channels[2], "its own", |status| status.text() == Some("{}")).await;
    assert!(channels[..2].iter().all(|channel| channel.service_config().text().is_none()));
    assert!(channels.iter().all(|channel| channel.service_config().error().is_none()));
    drop(channels);
    until("no watch", async || (world.watches() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_read_all_documents_or_its_own_alone() {
    for keys in [&[("tonic-etcd/config/", true)][..], &[("tonic-etcd/config/s", false)]] {
        let world = World::start().await;
        let (root, options) = with_role(&world, keys).await;
        let channel = channel(&Resolver::connect_lazy(options).unwrap(), "s");
        root.kv_client().put("tonic-etcd/config/s", document("0.1s"), None).await.unwrap();
        shows(&channel, "the document", |status| status.text().is_some()).await;
        root.kv_client().put("tonic-etcd/config/s", "{}", None).await.unwrap();
        shows(&channel, "the next document", |status| status.text() == Some("{}")).await;
        assert!(channel.service_config().error().is_none());
    }
}

#[tokio::test]
async fn a_role_that_may_read_its_own_document_alone_is_nothing_to_warn_of() {
    let (log, _guard) = Log::begin();
    let world = World::start().await;
    let (root, options) = with_role(&world, &[("tonic-etcd/config/s", false)]).await;
    let resolver = Resolver::connect_lazy(options).unwrap();
    root.kv_client().put("tonic-etcd/config/s", document("0.1s"), None).await.unwrap();
    let channel = channel(&resolver, "s");
    shows(&channel, "the document", |status| status.text().is_some()).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((log.count(" WARN "), log.count("watch recovered")), (0, 0), "{}", log.text());
}

#[tokio::test]
async fn a_role_that_may_read_none_leaves_the_codes_settings_and_says_so_once() {
    let (log, _guard) = Log::begin();
    let world = World::start().await;
    let (root, options) = with_role(&world, &[]).await;
    let resolver = Resolver::connect_lazy(options).unwrap();
    root.kv_client().put("s/one", naming(&slow_server()), None).await.unwrap();
    root.kv_client().put("tonic-etcd/config/s", document("0.1s"), None).await.unwrap();
    let channel = channel(&resolver, "s");
    assert!(lasts(&channel).await > Duration::from_millis(1_500));
    sleep(Duration::from_secs(2)).await;
    assert!(channel.service_config().text().is_none());
    let status = channel.service_config();
    let error = status.error().unwrap();
    assert!(error.starts_with("etcd does not let tonic-etcd/config/s be read: "), "{error}");
    assert_eq!((revision_of(status.source()), revision_of(status.error_source())), (None, None));
    assert_eq!(log.warned("service config unreadable, settings unchanged"), 1, "{}", log.text());
    assert_eq!(log.count(" WARN "), 1, "{}", log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_prefix_and_names_that_are_refused() {
    let world = World::start().await;
    let etcd = world.etcd.endpoint();
    let resolver = Resolver::builder([etcd.as_str()]).control_prefix("ops").connect_lazy().unwrap();
    let channel = channel(&resolver, "tonic-etcd");
    world.put("ops/config/tonic-etcd", "{}").await;
    shows(&channel, "the document", |status| status.text() == Some("{}")).await;
    for service in ["ops", "ops/config"] {
        assert!(resolver.resolve(service).unwrap_err().is_invalid_argument(), "{service}");
    }
    assert!(world.resolver().resolve("tonic-etcd/config").unwrap_err().is_invalid_argument());
    let registrar = Registrar::connect_lazy([etcd.as_str()]).unwrap();
    let error = registrar.register("tonic-etcd", Instance::new("h:1").unwrap()).unwrap_err();
    assert!(error.is_invalid_argument(), "{error}");
    for prefix in ["", "a/", "etcd:///a"] {
        assert!(Resolver::builder([etcd.as_str()]).control_prefix(prefix).connect_lazy().is_err(), "{prefix:?}");
    }
    let discover = tokio_stream::empty::<Result<tower::discover::Change<u8, Instance>, std::convert::Infallible>>();
    let builder = BalancedChannel::builder().service_config_from_etcd();
    assert!(builder.build_with_discovery("s", discover).unwrap_err().is_invalid_argument());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_while_etcd_is_down_has_the_last_document() {
    for own_alone in [false, true] {
        let world = World::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (mut admin, mut options) = (world.admin.clone(), EtcdOptions::new([world.etcd.endpoint()]));
        if own_alone {
            (admin, options) = with_role(&world, &[("tonic-etcd/config/s", false)]).await;
        }
        admin.kv_client().put("s/one", naming(&slow_server()), None).await.unwrap();
        admin.kv_client().put("tonic-etcd/config/s", document("0.1s"), None).await.unwrap();
        let resolver = || Resolver::builder(options.clone()).cache(folder.path()).connect_lazy().unwrap();
        let before = channel(&resolver(), "s");
        shows(&before, "the document", |status| status.text().is_some()).await;
        assert!(lasts(&before).await < Duration::from_secs(1));
        let file = folder.path().join("tonic-etcd%2Fconfig%2Fs.cache");
        until("the file", async || file.exists().then_some(())).await;
        until("the servers' file", async || folder.path().join("s%2F.cache").exists().then_some(())).await;
        sleep(Duration::from_millis(200)).await;
        drop(before);

        world.etcd.kill();
        let cold = channel(&resolver(), "s");
        let first = lasts(&cold).await;
        assert!(first < Duration::from_millis(1_500), "the first call has its time: {first:?}");
        assert!(cold.service_config().text().unwrap().contains("0.1s"), "{:?}", cold.service_config());
    }
}
