//! Cache files: a client that starts while etcd is down.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tempfile::TempDir;
use test_support::{Log, Proxy};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic_etcd::codec::{Codec, DecodeError, Detect, EncodeError, Plain, Record};
use tonic_etcd::{
    BalancedChannel, ChangeStream, EtcdOptions, Instance, Resolution, ResolutionState, Resolver, ResolverBuilder,
    Target,
};
use tower::discover::Change;

use crate::channel::{greet, server};
use crate::support::{PATIENCE, World, addresses, naming, resolved, servers_are, until};

/// Longer than etcd may take before the cache is used.
const WAIT: Duration = Duration::from_secs(1);

fn builder(etcd: &str, folder: &TempDir) -> ResolverBuilder {
    Resolver::builder([etcd]).cache(folder.path())
}

/// Nothing listens there, and no port that is chosen freely is as low.
const NOBODY: &str = "127.0.0.1:1";

fn cold(folder: &TempDir, service: &str) -> Resolution {
    builder(NOBODY, folder).connect_lazy().unwrap().resolve(service).unwrap()
}

fn file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

/// Waits until the file holds this.
pub(crate) async fn written(file: &Path, text: &str) {
    let holds = || fs::read(file).ok().filter(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    until(&format!("{text:?} in {}", file.display()), async || holds().map(drop)).await;
}

/// A folder with the file of the service "s": records of h:1 and h:2.
async fn folder_of_two(world: &World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    world.put("s/1", &naming("h:1")).await;
    world.put("s/2", "h:2").await;
    let resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    written(&file(&folder, "s%2F.cache"), "h:2").await;
    folder
}

async fn next(discover: &mut ChangeStream) -> String {
    match timeout(PATIENCE, discover.next()).await.expect("a change in time") {
        Some(Ok(Change::Insert(key, _))) => format!("+{key}"),
        Some(Ok(Change::Remove(key))) => format!("-{key}"),
        None => "end".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_starts_while_etcd_is_down_and_follows_it_later() {
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    let proxy = Proxy::to(world.etcd.address());
    proxy.refuse();
    world.delete("s/1").await;
    world.put("s/3", "h:3").await;

    let resolution = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    let mut discover = resolution.discover();
    let began = Instant::now();
    let snapshot = resolution.ready(PATIENCE).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200), "etcd gets some time");
    assert_eq!(addresses(&snapshot), ["h:1".to_owned(), "h:2".to_owned()].into());
    assert!(snapshot.revision() > 0);
    let ResolutionState::Cached { age, .. } = resolution.state() else { panic!("{resolution:?}") };
    assert!(age < PATIENCE);
    until("the age to grow", async || match resolution.state() {
        ResolutionState::Cached { age: later, .. } => (later > age).then_some(()),
        _ => None,
    })
    .await;
    until("what is wrong with etcd", async || resolution.last_error()).await;
    assert_eq!([next(&mut discover).await, next(&mut discover).await], ["+h:1", "+h:2"]);

    proxy.resume();
    assert_eq!([next(&mut discover).await, next(&mut discover).await], ["+h:3", "-h:1"]);
    servers_are(&resolution, &["h:2", "h:3"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
    written(&file(&folder, "s%2F.cache"), "h:3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_believed_and_its_empty_set_is_not_used_later() {
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    world.delete_prefix("s/").await;
    let proxy = Proxy::to(world.etcd.address());
    proxy.refuse();
    let resolution = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 2);
    proxy.resume();
    servers_are(&resolution, &[]).await;
    assert_eq!(resolution.state(), ResolutionState::ConfirmedEmpty);
    let bytes = || fs::read(file(&folder, "s%2F.cache")).unwrap();
    until("an empty file", async || (!bytes().windows(3).any(|part| part == b"h:1")).then_some(())).await;

    let resolution = cold(&folder, "s");
    assert!(resolution.ready(WAIT).await.unwrap_err().is_timeout());
    assert_eq!(resolution.state(), ResolutionState::Unresolved);
}

/// etcd answers within its time: the cache, which holds something else, is never shown.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_answers_is_asked_alone() {
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    world.delete("s/1").await;
    // A busy machine may be late: what counts is that a set of etcd is never followed by one of the file.
    let mut resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    until("etcd", async || (resolution.state() == ResolutionState::Current).then_some(())).await;
    resolution.changed().await.unwrap();
    assert!(timeout(WAIT, resolution.changed()).await.is_err(), "{resolution:?}");
    assert_eq!(addresses(&resolution.snapshot()), ["h:2".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_calls_cached_servers_and_waits_for_etcd_where_they_are_gone() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (lives, gone) = (server(), NOBODY.to_owned());
    world.put("lives/1", &naming(&lives)).await;
    world.put("gone/1", &naming(&gone)).await;
    let resolver = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap();
    for (service, address) in [("lives", &lives), ("gone", &gone)] {
        servers_are(&resolver.resolve(service).unwrap(), &[address]).await;
        written(&file(&folder, &format!("{service}%2F.cache")), address).await;
    }

    let proxy = Proxy::to(world.etcd.address());
    proxy.refuse();
    let resolver = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap();
    let resolution = resolver.resolve("lives").unwrap();
    let channel = resolution.channel().unwrap();
    assert_eq!(greet(&channel).await.unwrap(), lives);
    assert!(matches!(resolution.state(), ResolutionState::Cached { .. }), "{resolution:?}");

    let resolution = resolver.resolve("gone").unwrap();
    let channel = BalancedChannel::builder().wait_limit(PATIENCE).build(&resolution).unwrap();
    let mut client = GreeterClient::new(channel.clone());
    let call = tokio::spawn(async move { client.say_hello(HelloRequest { name: "world".into() }).await });
    let has_failed = |server: &tonic_etcd::ServerStatus| server.state() == tonic_etcd::ServerState::TransientFailure;
    until("the cached server to fail", async || channel.servers().iter().any(has_failed).then_some(())).await;
    assert!(matches!(resolution.state(), ResolutionState::Cached { .. }), "{resolution:?}");
    world.put("gone/1", &naming(&lives)).await;
    proxy.resume();
    assert!(call.await.unwrap().is_ok(), "etcd knew another server");
}

/// Says at WARN what is wrong, once, and is as without a cache otherwise.
async fn is_refused(log: &Log, what: &str, resolution: &Resolution, reason: &str) {
    let before = log.warned("cache file not used");
    let said = async || (log.warned("cache file not used") > before).then_some(());
    let waited = resolution.ready(WAIT).await;
    assert!(waited.unwrap_err().is_timeout(), "{what}");
    until(what, said).await;
    let text = log.text();
    let line = text.lines().rev().find(|line| line.contains("cache file not used")).unwrap();
    assert!(line.contains(reason) && line.contains(".cache: "), "{what}: {line}");
    assert_eq!(log.warned("cache file not used"), before + 1, "{what}");
    assert_eq!((resolution.state(), resolution.snapshot().len()), (ResolutionState::Unresolved, 0), "{what}");
}

#[tokio::test]
async fn files_that_cannot_be_trusted_are_reported_once_and_ignored() {
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    let path = file(&folder, "s%2F.cache");
    let good = fs::read(&path).unwrap();
    let (log, _guard) = Log::begin();

    fs::write(&path, b"").unwrap();
    is_refused(&log, "an empty file", &cold(&folder, "s"), "ends too early").await;
    fs::write(&path, b"{\"servers\":[]}").unwrap();
    is_refused(&log, "another file", &cold(&folder, "s"), "no cache file").await;
    fs::write(&path, &good[..good.len() - 7]).unwrap();
    is_refused(&log, "a cut file", &cold(&folder, "s"), "damaged").await;
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, &damaged).unwrap();
    is_refused(&log, "a damaged file", &cold(&folder, "s"), "checksum of its contents").await;
    let mut newer = good.clone();
    newer[16] = 2;
    fs::write(&path, &newer).unwrap();
    is_refused(&log, "another version", &cold(&folder, "s"), "version 2").await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    is_refused(&log, "a folder", &cold(&folder, "s"), "no plain file").await;
    fs::remove_dir(&path).unwrap();

    fs::write(&path, &good).unwrap();
    let plain = builder(NOBODY, &folder).codec(Plain).connect_lazy().unwrap().resolve("s").unwrap();
    is_refused(&log, "another codec", &plain, "written with the codec").await;
    fs::copy(&path, file(&folder, "t%2F.cache")).unwrap();
    is_refused(&log, "another prefix", &cold(&folder, "t"), "it is of the prefix").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let young = builder(NOBODY, &folder).cache_max_age(Duration::from_millis(1)).connect_lazy().unwrap();
    is_refused(&log, "an old file", &young.resolve("s").unwrap(), "too old").await;

    // A missing file is no news, and the good one is still good.
    assert!(cold(&folder, "none").ready(WAIT).await.is_err());
    assert_eq!(log.warned("cache file"), 9);
    let resolution = cold(&folder, "s");
    assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 2);
    assert_eq!(log.warned("etcd has not answered, using cached instances"), 1);
    // etcd repairs what is damaged.
    fs::write(&path, &damaged).unwrap();
    let resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    let is_repaired = || fs::read(&path).is_ok_and(|bytes| bytes.get(52..) == good.get(52..));
    until("the file to be repaired", async || is_repaired().then_some(())).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_reported_once_and_ignored() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = file(&folder, "file");
    fs::write(&in_the_way, b"").unwrap();
    let (log, _guard) = Log::begin();
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(&in_the_way).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    until("word of it", async || (log.warned("cache file not written") == 1).then_some(())).await;
    for port in 2..6 {
        world.put("s/1", &format!("h:{port}")).await;
        servers_are(&resolution, &[&format!("h:{port}")]).await;
        tokio::time::sleep(Duration::from_millis(120)).await; // the pace of the writer
    }
    assert_eq!(log.warned("cache file not written"), 1);
    assert_eq!(fs::read(&in_the_way).unwrap(), b"");
}

/// The file is what etcd holds: nothing of the resolver's, and no value changed, not even one that cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_what_etcd_holds_and_nothing_of_the_user() {
    let world = World::start().await;
    for (key, value) in [("s/1", naming("h:1")), ("s/2", " h:2\n".into()), ("s/3", "cannot be read".into())] {
        world.put(key, &value).await;
    }
    world.put("sx/1", "h:9").await;
    let _root = world.protect("s/").await;
    let folder = tempfile::tempdir().unwrap();
    let options = EtcdOptions::new([world.etcd.endpoint()]).user("user", "userpw");
    let resolver = Resolver::builder(options).cache(folder.path().join("made/by it")).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    resolved(&resolution, "all", |snapshot| snapshot.len() == 2 && snapshot.unreadable() == 1).await;
    let path = folder.path().join("made/by it/s%2F.cache");
    written(&path, "cannot be read").await;

    let bytes = fs::read(&path).unwrap();
    let part = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat();
    let mut wanted = [part(b"detect"), part(b"s/"), 3u32.to_le_bytes().to_vec()].concat();
    for (key, value) in [("s/1", naming("h:1")), ("s/2", " h:2\n".into()), ("s/3", "cannot be read".into())] {
        wanted.extend([part(key.as_bytes()), part(value.as_bytes())].concat());
    }
    // 16 bytes of magic, a version, a time, a revision, and two checksums come first: no room for anything else.
    assert_eq!(bytes[52..], wanted);
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(entries.count(), 1, "no temporary file is left");
    for secret in ["user", "userpw", "root"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // What cannot be read by one codec may be by another of the same name: it is still there.
    let resolution = cold_at(path.parent().unwrap());
    let snapshot = resolution.ready(PATIENCE).await.unwrap();
    assert_eq!((snapshot.len(), snapshot.unreadable()), (2, 1));
}

fn cold_at(folder: &Path) -> Resolution {
    Resolver::builder([NOBODY]).cache(folder).connect_lazy().unwrap().resolve("s").unwrap()
}

/// Contents that stay are confirmed in place: the file is the same one, and its time is later.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_stays_is_confirmed_and_not_written_again() {
    use std::os::unix::fs::MetadataExt;
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    let path = file(&folder, "s%2F.cache");
    let (before, contents) = (fs::metadata(&path).unwrap(), fs::read(&path).unwrap());
    fs::File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    let touched = || fs::metadata(&path).unwrap().modified().unwrap() >= before.modified().unwrap();
    assert!(!touched());
    let resolver = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    until("a confirmation", async || touched().then_some(())).await;
    assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
    assert_eq!(fs::read(&path).unwrap()[52..], contents[52..]);
    // Another value that is read alike changes no instance.
    world.put("s/2", " h:2").await;
    world.put("s/3", "h:3").await;
    written(&path, "h:3").await;
    assert_ne!(fs::metadata(&path).unwrap().ino(), before.ino());
    written(&path, " h:2").await;
}

/// Many changes in a moment: the file has the last of them, also where the resolver has gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_state_is_written_although_its_resolver_has_gone() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    for port in 1..=50 {
        world.put("s/1", &format!("h:{port}")).await;
    }
    servers_are(&resolution, &["h:50"]).await;
    drop(resolution);
    written(&file(&folder, "s%2F.cache"), "h:50").await;
}

/// Two resolvers of one folder, as two processes have.
#[tokio::test(flavor = "multi_thread")]
async fn resolvers_share_a_folder() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.put("s/1", "h:1").await;
    let resolve = || builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    let (one, two) = (resolve(), resolve());
    written(&file(&folder, "s%2F.cache"), "h:1").await;
    for port in 2..=10 {
        world.put("s/1", &format!("h:{port}")).await;
        servers_are(&one, &[&format!("h:{port}")]).await;
        servers_are(&two, &[&format!("h:{port}")]).await;
        let resolution = cold(&folder, "s");
        assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 1, "always a whole file");
    }
    written(&file(&folder, "s%2F.cache"), "h:10").await;
}

/// Services whose files are written before any that comes later; gives the resolutions.
async fn backlog(world: &World, resolver: &Resolver, count: usize) -> Vec<Resolution> {
    let mut resolutions = Vec::new();
    for number in 0..count {
        world.put(&format!("backlog-{number}/1"), "h:1").await;
        resolutions.push(resolver.resolve(format!("backlog-{number}").as_str()).unwrap());
    }
    for resolution in &resolutions {
        servers_are(resolution, &["h:1"]).await;
    }
    resolutions
}

/// The last state of a service may still wait to be written when the service is resolved again.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_resolved_again_has_its_last_state() {
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    let proxy = Proxy::to(world.etcd.address());
    let resolver = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap();
    let _others = backlog(&world, &resolver, 30).await;
    world.delete("s/1").await;
    world.put("s/2", "h:3").await;
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:3"]).await;
    drop(resolution);
    proxy.refuse();
    let resolution = resolver.resolve("s").unwrap();
    assert_eq!(addresses(&resolution.ready(PATIENCE).await.unwrap()), ["h:3".to_owned()].into());
}

/// A process that writes late, and has lost etcd since, does not undo what another one has written.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_does_not_replace_a_newer_one_of_another_process() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(world.etcd.address());
    let slow = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap();
    world.put("s/1", "h:1").await;
    let _others = backlog(&world, &slow, 30).await;
    let old = slow.resolve("s").unwrap();
    servers_are(&old, &["h:1"]).await;
    proxy.refuse();
    world.put("s/1", "h:2").await;
    let new = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&new, &["h:2"]).await;
    written(&file(&folder, "s%2F.cache"), "h:2").await;
    drop((old, slow));
    let last = file(&folder, "backlog-29%2F.cache");
    written(&last, "h:1").await;
    tokio::time::sleep(WAIT).await; // "s" comes after it
    assert_eq!(addresses(&cold(&folder, "s").ready(PATIENCE).await.unwrap()), ["h:2".to_owned()].into());
}

/// A codec that takes its time for one record.
#[derive(Debug)]
struct Slow;

impl Codec for Slow {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        if value == b"h:99" {
            std::thread::sleep(Duration::from_secs(2));
        }
        Detect.decode(key, value)
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        Detect.encode(target, instance)
    }
}

/// The last changes and the loss of etcd may be taken at once: what etcd has said last is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_that_comes_with_the_loss_of_etcd_is_written() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    let resolver = builder(&proxy.endpoint(), &folder).codec(Slow).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    written(&file(&folder, "s%2F.cache"), "h:1").await;
    tokio::time::sleep(Duration::from_secs(6)).await; // a list is believed for 5 s
    world.put("s/9", "h:99").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.put("s/1", "h:2").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.refuse();
    servers_are(&resolution, &["h:2", "h:99"]).await;
    written(&file(&folder, "s%2F.cache"), "h:2").await;
}

/// A server that is cached and in etcd is the same one: its connection stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_server_that_etcd_still_has_keeps_its_connection() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let lives = server();
    let link = Proxy::to(lives.parse().unwrap());
    world.put("s/1", &naming(&link.address().to_string())).await;
    let resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &[&link.address().to_string()]).await;
    written(&file(&folder, "s%2F.cache"), "127").await;
    let proxy = Proxy::to(world.etcd.address());
    proxy.refuse();
    let resolution = builder(&proxy.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    let mut discover = resolution.discover();
    assert_eq!(greet(&channel).await.unwrap(), link.address().to_string());
    assert!(next(&mut discover).await.starts_with('+'));
    proxy.resume();
    until("etcd", async || (resolution.state() == ResolutionState::Current).then_some(())).await;
    assert!(timeout(WAIT, discover.next()).await.is_err());
    assert_eq!(greet(&channel).await.unwrap(), link.address().to_string());
    assert_eq!(link.connections(), 1);
}

/// Whatever the permissions of a file were, it is its owner's alone.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_can_read_is_made_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::start().await;
    let folder = folder_of_two(&world).await;
    let path = file(&folder, "s%2F.cache");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let resolution = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    until("its mode", async || (mode() == 0o600).then_some(())).await;
}

/// The name key has a range, and so a file, of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_its_name_key_has_a_file_of_its_own() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.put("/web", "h:1").await;
    world.put("/web/2", "h:2").await;
    let with_name = || Target::parse("/web").unwrap().with_name_key(true);
    let resolver = builder(&world.etcd.endpoint(), &folder).connect_lazy().unwrap();
    let (with, without) = (resolver.resolve(with_name()).unwrap(), resolver.resolve("/web").unwrap());
    servers_are(&with, &["h:1", "h:2"]).await;
    servers_are(&without, &["h:2"]).await;
    written(&file(&folder, "%2Fweb.cache"), "h:1").await;
    written(&file(&folder, "%2Fweb%2F.cache"), "h:2").await;
    let resolver = builder(NOBODY, &folder).connect_lazy().unwrap();
    assert_eq!(resolver.resolve(with_name()).unwrap().ready(PATIENCE).await.unwrap().len(), 2);
    assert_eq!(resolver.resolve("/web").unwrap().ready(PATIENCE).await.unwrap().len(), 1);
}

/// A codec of a user's own, which panics on some records.
#[derive(Debug)]
struct Picky;

impl Codec for Picky {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        assert!(value != b"h:13", "unlucky");
        Detect.decode(key, value)
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        Detect.encode(target, instance)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_codec_that_panics_on_one_record_spoils_no_other() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.put("s/1", "h:1").await;
    world.put("s/2", "h:13").await;
    let picky = |etcd: &str| builder(etcd, &folder).codec(Picky).connect_lazy().unwrap().resolve("s").unwrap();
    let resolution = picky(&world.etcd.endpoint());
    servers_are(&resolution, &["h:1"]).await;
    written(&file(&folder, "s%2F.cache"), "custom").await;
    let snapshot = picky(NOBODY).ready(PATIENCE).await.unwrap();
    assert_eq!((snapshot.len(), snapshot.unreadable()), (1, 1));
}

/// A runtime that ends does not wait for the disk, nor for the thread.
#[test]
fn a_runtime_ends_without_the_thread() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolution = runtime.block_on(async {
        let resolution = cold(&folder, "s");
        assert!(resolution.ready(Duration::from_millis(50)).await.is_err());
        resolution
    });
    drop(runtime);
    assert_eq!(resolution.state(), ResolutionState::Closed);
}

#[test]
fn options_of_the_cache_are_checked() {
    let refused = |builder: ResolverBuilder| {
        let error = builder.connect_lazy().unwrap_err();
        assert!(error.is_invalid_argument(), "{error}");
        error.to_string()
    };
    let builder = || Resolver::builder(["h:1"]);
    assert!(refused(builder().cache("")).contains("invalid cache"));
    assert!(refused(builder().cache("/x").cache_max_age(Duration::ZERO)).contains("more than 0"));
    assert!(refused(builder().cache_max_age(WAIT)).contains("ResolverBuilder::cache"));
}
