//! Documents in cache files, and in an etcd that has lost its data.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tonic_etcd::Resolver;

use super::{channel, document, has, holds, put, shows, with_role};
use crate::channel::{greet, server};
use crate::support::{World, naming, until};

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
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"7s\"").await;
    sleep(Duration::from_millis(500)).await;
    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    let resolution = resolver.resolve("s").unwrap();
    until("the loss", async || resolution.snapshot().is_empty().then_some(())).await;
    sleep(Duration::from_secs(12)).await;
    greet(&channel).await.unwrap();
    assert_eq!(channel.servers().len(), 3, "held");
    let cached = std::fs::read(folder.path().join("tonic-etcd%2Fconfig%2Fs.cache")).unwrap();
    let is_cached = cached.windows(4).any(|part| part == b"\"7s\"");
    assert!(has(&channel, "\"7s\"") && is_cached, "{:?}, in the cache: {is_cached}", channel.service_config());
}
