//! Review of service configs that come live from etcd: each test here is of a fault that was proven, and fails until it is mended.

use std::path::Path;
use std::time::{Duration, SystemTime};

use etcd_client::{Client, ConnectOptions, Permission, RoleRevokePermissionOptions};
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tempfile::TempDir;
use test_support::Log;
use tokio::time::{Instant, sleep};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_etcd::{BalancedChannel, EtcdOptions, Resolver, ServiceConfigStatus};

use crate::channel::{greet, server};
use crate::support::{World, naming, servers_are, until};

/// Nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

fn document(timeout: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "{timeout}"}}]}}"#)
}

fn channel(resolver: &Resolver, service: &str) -> BalancedChannel {
    BalancedChannel::builder().service_config_from_etcd().build(&resolver.resolve(service).unwrap()).unwrap()
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

async fn revoke_all_configs(root: &Client) {
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    root.auth_client().role_revoke_permission("role", "tonic-etcd/config/", Some(prefix)).await.unwrap();
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

/// A folder with the cache file of the servers of "s" alone, as a release without service configs has left it.
async fn folder_with_servers_alone(world: &World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let address = server();
    world.put("s/one", &naming(&address)).await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &[&address]).await;
    holds(&folder.path().join("s%2F.cache"), &address).await;
    folder
}

/// The wait for the first word of the config is no part of the call's deadline: it outlives it ten times.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_the_first_word_ends_at_its_deadline() {
    let resolver = Resolver::connect_lazy([NOBODY]).unwrap();
    let channel = channel(&resolver, "s");
    let mut request = Request::new(HelloRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let began = Instant::now();
    let status = GreeterClient::new(channel).say_hello(request).await.unwrap_err();
    let lasted = began.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(lasted < Duration::from_millis(500), "a deadline of 100 ms ended after {lasted:?}");
}

/// etcd is down, the servers are cached and their config is not, as after an update of the program: while etcd stays down, each call
/// waits a second anew.
#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_down_not_every_call_waits_a_second_for_a_config_that_is_not_cached() {
    let world = World::start().await;
    let folder = folder_with_servers_alone(&world).await;
    world.etcd.kill();
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let channel = channel(&resolver, "s");
    greet(&channel).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let mut lasted = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        greet(&channel).await.unwrap();
        lasted.push(began.elapsed());
    }
    assert!(lasted.iter().all(|lasted| *lasted < Duration::from_millis(500)), "the calls took {lasted:?}");
}

/// As before, where calls have half a second: all fail, although the server is well. Without the config all are OK.
#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_down_calls_with_a_short_deadline_reach_cached_servers() {
    let world = World::start().await;
    let folder = folder_with_servers_alone(&world).await;
    world.etcd.kill();
    for takes_config in [false, true] {
        let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
        let builder = BalancedChannel::builder().timeout(Duration::from_millis(500));
        let builder = if takes_config { builder.service_config_from_etcd() } else { builder };
        let channel = builder.build(&resolver.resolve("s").unwrap()).unwrap();
        until("the cached server", async || (channel.servers().len() == 1).then_some(())).await;
        sleep(Duration::from_secs(2)).await;
        for number in 0..5 {
            let result = greet(&channel).await;
            assert!(result.is_ok(), "takes config: {takes_config}, call {number}: {result:?}");
        }
    }
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
    holds(&folder.path().join("tonic-etcd%2Fconfig%2F.cache"), "\"1s\"").await;
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
    holds(&folder.path().join("tonic-etcd%2Fconfig%2F.cache"), "\"1s\"").await;
    drop(before);
    sleep(Duration::from_millis(500)).await;

    revoke_all_configs(&root).await;
    let channel = channel(&resolver(), "s");
    sleep(Duration::from_secs(3)).await;
    let status = channel.service_config();
    assert!(status.text().is_none() && status.error().is_some(), "etcd is up, and refuses it: {status:?}");
}

/// A role that may read its own document alone, and an etcd that does not answer instead of refusing connections, as when its
/// machine is gone: the cache file is looked for only after the first failure, seconds later.
#[tokio::test(flavor = "multi_thread")]
async fn the_cached_document_of_a_narrow_role_is_there_for_the_first_call_while_etcd_is_silent() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, options) = with_role(&world, &[("tonic-etcd/config/s", false)]).await;
    put(&root, "s/one", naming(&server())).await;
    put(&root, "tonic-etcd/config/s", document("7s")).await;
    let resolver = || Resolver::builder(options.clone()).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"7s\"").await;
    until("the servers' file", async || folder.path().join("s%2F.cache").exists().then_some(())).await;
    drop(before);
    sleep(Duration::from_millis(500)).await;

    world.etcd.freeze();
    let cold = channel(&resolver(), "s");
    let began = Instant::now();
    let call = greet(&cold).await;
    let (lasted, status) = (began.elapsed(), cold.service_config());
    let mut came = None;
    while came.is_none() && began.elapsed() < Duration::from_secs(15) {
        came = has(&cold, "\"7s\"").then(|| began.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    world.etcd.thaw();
    assert!(
        status.text().is_some() && lasted < Duration::from_millis(900),
        "the first call took {lasted:?} and began with {status:?}: {call:?}; the document came after {came:?}"
    );
}

/// A client of one service keeps the documents of all others in its cache, and writes all of them again whenever one changes:
/// "the service configs that channels take from it".
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_holds_no_documents_of_other_services() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let filler = "x".repeat(100_000);
    for number in 0..100 {
        world.put(&format!("tonic-etcd/config/other{number}"), &format!(r#"{{"x": "{filler}"}}"#)).await;
    }
    world.put("tonic-etcd/config/s", &document("1s")).await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let channel = channel(&resolver, "s");
    shows(&channel, "the document", |status| status.text().is_some()).await;
    let files = || {
        let files = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        files.map(|file| (file.metadata().unwrap().len(), file.metadata().unwrap().modified().unwrap()))
    };
    until("the file", async || files().any(|(length, _)| length > 0).then_some(())).await;
    sleep(Duration::from_millis(500)).await;
    let last = || files().map(|(_, at)| at).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let (size, mut known, mut written) = (files().map(|(length, _)| length).sum::<u64>(), last(), 0);
    for number in 0..5 {
        world.put("tonic-etcd/config/other0", &format!("{{\"x\": {number}}}")).await;
        sleep(Duration::from_millis(400)).await;
        let now = last();
        written += usize::from(now != known);
        known = now;
    }
    assert!(
        size < 1_000_000 && written == 0,
        "{size} bytes for a document of {} bytes; five changes of another service's document have written the file {written} times",
        document("1s").len()
    );
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

/// Issue 17: "one WARN for each" document that is refused.
#[tokio::test]
async fn each_document_that_is_refused_is_logged() {
    let (log, _guard) = Log::begin();
    let world = World::start().await;
    let channel = channel(&world.resolver(), "s");
    shows(&channel, "word of etcd", |status| status.source().is_some()).await;
    for (number, timeout) in ["soon", "soon"].into_iter().enumerate() {
        let text = document(timeout).replace("[{}]", &format!(r#"[{{"service": "s{number}"}}]"#));
        world.put("tonic-etcd/config/s", &text).await;
        let revision = world.revision().await;
        let wanted = format!("revision {revision}");
        shows(&channel, "the refusal", |status| {
            status.error().is_some() && status.source().is_some_and(|source| source.to_string().ends_with(&wanted))
        })
        .await;
    }
    let warned = log.warned("service config refused");
    assert_eq!(warned, 2, "two documents were refused: {}", log.text());
}

/// Issue 17: the key is never below the service's own prefix. With a control prefix of two segments it may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_above_the_control_prefix_does_not_read_documents_as_records() {
    let world = World::start().await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).control_prefix("team/control").connect_lazy().unwrap();
    // A document may have fields that nobody knows.
    world.put("team/control/config/team", r#"{"Addr": "10.0.0.9:80", "methodConfig": []}"#).await;
    let Ok(resolution) = resolver.resolve("team") else { return };
    let channel = BalancedChannel::builder().service_config_from_etcd().build(&resolution).unwrap();
    shows(&channel, "the document", |status| status.text().is_some() && status.error().is_none()).await;
    let snapshot = resolution.ready(Duration::from_secs(10)).await.unwrap();
    assert!(snapshot.is_empty() && snapshot.unreadable() == 0, "the document is a server too: {snapshot:?}");
}

/// Servers of a wiped etcd are held, and their cache file stays; their config is dropped at once, also from the cache.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_etcd_does_not_take_the_config_of_servers_that_are_held() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two", "three"] {
        world.put(&format!("s/{name}"), &naming(&server())).await;
    }
    world.put("tonic-etcd/config/s", &document("7s")).await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let channel = channel(&resolver, "s");
    shows(&channel, "the document", |status| status.text().is_some()).await;
    until("three servers", async || (channel.servers().len() == 3).then_some(())).await;
    holds(&folder.path().join("tonic-etcd%2Fconfig%2F.cache"), "\"7s\"").await;
    sleep(Duration::from_millis(500)).await;
    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    let resolution = resolver.resolve("s").unwrap();
    until("the loss", async || resolution.snapshot().is_empty().then_some(())).await;
    sleep(Duration::from_secs(12)).await;
    greet(&channel).await.unwrap();
    assert_eq!(channel.servers().len(), 3, "held");
    let cached = std::fs::read(folder.path().join("tonic-etcd%2Fconfig%2F.cache")).unwrap();
    let is_cached = cached.windows(4).any(|part| part == b"\"7s\"");
    assert!(has(&channel, "\"7s\"") && is_cached, "{:?}, in the cache: {is_cached}", channel.service_config());
}

struct Unhealthy;

#[tonic::async_trait]
impl Greeter for Unhealthy {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: "from a server that does not serve".into() }))
    }
}

/// The address of a server whose health is NOT_SERVING.
async fn unhealthy_server() -> String {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("greeter", tonic_health::ServingStatus::NotServing).await;
    let server = tonic::transport::Server::builder().add_service(health).add_service(GreeterServer::new(Unhealthy));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// Calls wait for the first word, and it says that health decides: they are woken before anybody has been asked for it, and go to
/// servers that were connected meanwhile. The role reads its own document alone, so that etcd's word takes a little longer.
#[tokio::test(flavor = "multi_thread")]
async fn the_calls_that_waited_for_the_first_word_go_to_no_unhealthy_server() {
    let world = World::start().await;
    let (root, options) = with_role(&world, &[("tonic-etcd/config/s", false)]).await;
    put(&root, "s/one", naming(&unhealthy_server().await)).await;
    put(&root, "tonic-etcd/config/s", r#"{"healthCheckConfig": {"serviceName": "greeter"}}"#).await;
    for number in 0..10 {
        let channel = channel(&Resolver::connect_lazy(options.clone()).unwrap(), "s");
        let result = greet(&channel).await;
        assert!(channel.service_config().text().is_some(), "the call has waited for it");
        assert!(result.is_err(), "start {number}: a call was sent to a server that is NOT_SERVING");
    }
}

/// etcd is down, and everything comes from the cache, 300 ms after the start. The document's timeout counts from the begin of the call
/// and not from when the document is known, as in grpc-go and grpc-java: calls that waited for it fail without being sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waited_for_the_document_has_the_documents_time() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.put("s/one", &naming(&server())).await;
    world.put("tonic-etcd/config/s", &document("0.2s")).await;
    let resolver = || Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    greet(&before).await.unwrap();
    holds(&folder.path().join("tonic-etcd%2Fconfig%2F.cache"), "\"0.2s\"").await;
    until("the servers' file", async || folder.path().join("s%2F.cache").exists().then_some(())).await;
    drop(before);
    sleep(Duration::from_millis(500)).await;
    world.etcd.kill();
    let cold = channel(&resolver(), "s");
    let first = greet(&cold).await;
    assert!(first.is_ok(), "{first:?}");
}

/// The same without rights, where a resolver knows the servers already: a second channel of a service. How often it happens is a
/// matter of microseconds, so that there are many starts.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_calls_of_a_channel_go_to_no_unhealthy_server() {
    let world = World::start().await;
    world.put("s/one", &naming(&unhealthy_server().await)).await;
    world.put("tonic-etcd/config/s", r#"{"healthCheckConfig": {"serviceName": "greeter"}}"#).await;
    let mut sent = 0;
    for _ in 0..60 {
        let resolver = world.resolver();
        greet(&resolver.channel("s").unwrap()).await.unwrap();
        let channel = channel(&resolver, "s");
        sent += usize::from(greet(&channel).await.is_ok());
        assert!(channel.service_config().text().is_some(), "the call has waited for it");
    }
    assert_eq!(sent, 0, "of 60 first calls, {sent} were sent to a server that is NOT_SERVING");
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

/// Issue 17: "state and log say revision, path and reason". Of two documents that are not UTF-8 the second one is not told at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_the_revision_of_the_last_document_that_was_refused() {
    let world = World::start().await;
    let channel = channel(&world.resolver(), "s");
    shows(&channel, "word of etcd", |status| status.source().is_some()).await;
    for value in [b"\xffA", b"\xffB"] {
        put(&world.admin, "tonic-etcd/config/s", value.as_slice()).await;
        let wanted = format!("revision {}", world.revision().await);
        let end = Instant::now() + Duration::from_secs(5);
        while !channel.service_config().source().is_some_and(|source| source.to_string().ends_with(&wanted)) {
            assert!(Instant::now() < end, "{wanted} was refused: {:?}", channel.service_config());
            sleep(Duration::from_millis(20)).await;
        }
    }
}
