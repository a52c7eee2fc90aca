//! The timeout of a fleet is changed by a put, ten times under 64 callers; a broken document comes; a client starts while etcd is
//! down.

use std::time::{Duration, Instant};

use etcd_client::Client;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::{Bar, Etcd};
use tokio::time::sleep;
use tonic_etcd::{BalancedChannel, Resolver, ServiceConfigSource};

use super::callers::Callers;
use super::server::Noting;
use super::until;
use crate::findings::Findings;
use crate::outcome::median;
use crate::world::{Result, World, naming};

const SERVICE: &str = "config";
const KEY: &str = "tonic-etcd/config/config";
const TIMES: usize = 10;
/// Between two puts.
const STEP: Duration = Duration::from_millis(800);
/// Calls with less are of the short timeout of 50 ms.
const SHORT: Duration = Duration::from_millis(60);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::builder().try_start()?;
    let folder = tempfile::tempdir()?;
    world.block_on(Box::pin(async {
        let server = Noting::start()?;
        let admin = Client::connect([etcd.endpoint()], None).await?;
        let instance = format!("{SERVICE}/{}", server.address);
        admin.kv_client().put(instance, naming(&server.address.to_string()), None).await?;
        let resolver = || Resolver::builder([etcd.endpoint()]).cache(folder.path()).connect_lazy();
        put(&admin, &document("5s")).await?;
        let channel = channel(&resolver()?)?;
        until("the first document", || channel.service_config().text().is_some()).await?;
        let callers = Callers::start(&channel);
        changes(&server, &admin, findings).await?;
        broken(&server, &admin, &channel, findings).await?;
        let (made, failed) = callers.stop().await;
        findings.ours("calls that failed meanwhile", failed as f64, "", Bar::Equal(0.0));
        findings.ours("calls that were made meanwhile", made as f64, "", Bar::AtLeast(1_000.0));
        sleep(STEP).await; // the cache file is written
        drop(channel);
        etcd.kill();
        cold(&server, &resolver()?, findings).await
    }))
}

fn document(timeout: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{"service": "helloworld.Greeter"}}], "timeout": "{timeout}"}}]}}"#)
}

async fn put(admin: &Client, document: &str) -> Result<i64> {
    let response = admin.kv_client().put(KEY, document, None).await?;
    Ok(response.header().map_or(0, etcd_client::ResponseHeader::revision))
}

fn channel(resolver: &Resolver) -> Result<BalancedChannel> {
    Ok(BalancedChannel::builder().service_config_from_etcd().build(&resolver.resolve(SERVICE)?)?)
}

/// From each put to the last call that began with the timeout before.
async fn changes(server: &Noting, admin: &Client, findings: &mut Findings) -> Result<()> {
    let mut took = Vec::new();
    for time in 0..TIMES {
        let is_short = time % 2 == 0;
        server.take();
        let began = Instant::now();
        put(admin, &document(if is_short { "0.05s" } else { "5s" })).await?;
        sleep(STEP).await;
        let arrivals = server.take();
        let is_old = |timeout: &Option<Duration>| timeout.is_some_and(|timeout| timeout <= SHORT) != is_short;
        let last = arrivals.iter().filter(|(_, timeout)| is_old(timeout)).map(|(at, _)| *at).max();
        let is_new_seen = arrivals.iter().any(|(_, timeout)| !is_old(timeout));
        let ms = last.map_or(0.0, |at| at.saturating_duration_since(began).as_secs_f64() * 1e3);
        took.push(if is_new_seen { ms } else { f64::INFINITY });
    }
    let worst = took.iter().copied().fold(0.0, f64::max);
    findings.ours(
        "from a put to the last call with the old timeout, median of 10",
        median(took),
        "ms",
        Bar::AtMost(100.0),
    );
    findings.ours("from a put to the last call with the old timeout, worst", worst, "ms", Bar::AtMost(500.0));
    Ok(())
}

/// What becomes of calls, and when it is told.
async fn broken(server: &Noting, admin: &Client, channel: &BalancedChannel, findings: &mut Findings) -> Result<()> {
    let began = Instant::now();
    let revision = put(admin, &document("soon")).await?;
    until("word of the broken document", || channel.service_config().error().is_some()).await?;
    let told = began.elapsed().as_secs_f64() * 1e3;
    let status = channel.service_config();
    let is_named = status.error().is_some_and(|error| error.starts_with("methodConfig[0].timeout: "))
        && matches!(status.error_source(), Some(ServiceConfigSource::Etcd { revision: Some(seen), .. }) if *seen >= revision);
    server.take();
    sleep(STEP).await;
    let changed = server.take().iter().filter(|(_, timeout)| timeout.is_none_or(|timeout| timeout <= SHORT)).count();
    findings.ours("a broken document: calls with another timeout", changed as f64, "", Bar::Equal(0.0));
    findings.ours("a broken document: told within", told, "ms", Bar::AtMost(500.0));
    let named = f64::from(u8::from(is_named));
    findings.ours("a broken document: its revision and path are told", named, "", Bar::Equal(1.0));
    put(admin, &document("0.05s")).await?;
    Ok(())
}

/// The timeout of the first call of a client that starts while etcd is down.
async fn cold(server: &Noting, resolver: &Resolver, findings: &mut Findings) -> Result<()> {
    let channel = channel(resolver)?;
    server.take();
    let result = GreeterClient::new(channel).say_hello(HelloRequest::default()).await;
    let first = server.take().first().and_then(|(_, timeout)| *timeout);
    let has_timeout = first.is_some_and(|timeout| timeout <= SHORT)
        || result.is_err_and(|status| status.code() == tonic::Code::DeadlineExceeded);
    let in_force = f64::from(u8::from(has_timeout));
    findings.ours("etcd down, with a cache: the first call has the document's timeout", in_force, "", Bar::Equal(1.0));
    Ok(())
}
