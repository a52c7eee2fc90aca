//! Members of etcd that SRV records name, with a DNS server of the tests' own.

mod answerer;

use std::time::Duration;

use answerer::{Answerer, Mood, Srv};
use etcd_client::Client;
use test_support::{Cluster, Etcd, Log};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{EtcdOptions, Instance, Registrar, Resolution, Resolver, Target};

const PATIENCE: Duration = Duration::from_secs(30);
const PLAIN: &str = "_etcd-client._tcp.example.org";
const SECURE: &str = "_etcd-client-ssl._tcp.example.org";

fn options(dns: &Answerer) -> EtcdOptions {
    EtcdOptions::srv("example.org").srv_servers([dns.address])
}

fn at(etcd: &Etcd) -> Srv {
    (0, 0, etcd.address().port(), "localhost.")
}

fn resolve(options: EtcdOptions) -> Resolution {
    Resolver::connect_lazy(options).unwrap().resolve("s").unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn put(etcd: &Etcd, key: &str) {
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    admin.kv_client().put(format!("s/{key}"), key, None).await.unwrap();
}

async fn says(resolution: &Resolution, text: &str) {
    let is_said = async || resolution.last_error().is_some_and(|error| error.to_string().contains(text));
    let said = timeout(PATIENCE / 2, until(text, is_said)).await;
    assert!(said.is_ok(), "{text} is not said: {:?}", resolution.last_error());
}

/// SRV: members are found, also under a name of their own and by what a target says.
#[tokio::test]
async fn members_are_found_as_etcdctl_finds_them() {
    let (dns, etcd) = (Answerer::start().await, Etcd::start());
    put(&etcd, "h:1").await;
    dns.set(PLAIN, [at(&etcd)]);
    dns.set("_etcd-client-blue._tcp.example.org", [at(&etcd)]);
    let resolver = Resolver::connect_lazy(options(&dns)).unwrap();
    for target in ["s", "etcd:///s", "etcd-srv://Example.org/s", "etcd-srv://example.org./s"] {
        let resolution = resolver.resolve(target).unwrap();
        assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 1, "{target}");
    }
    for target in ["etcd-srv://example.com/s", "etcd://localhost:2379/s"] {
        let error = resolver.resolve(target).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("SRV"), "{error}");
    }
    let other = Resolver::connect_lazy([etcd.endpoint()]).unwrap();
    assert!(other.resolve("etcd-srv://example.org/s").unwrap_err().is_invalid_argument());
    let named = resolve(options(&dns).srv_name("blue"));
    named.ready(PATIENCE).await.unwrap();
    let target = Target::parse("etcd-srv://example.org/s").unwrap();
    let by_target = resolve(EtcdOptions::from_target(&target).unwrap().srv_servers([dns.address]));
    by_target.ready(PATIENCE).await.unwrap();
    let registrar = Registrar::connect_lazy(options(&dns)).unwrap();
    let registration = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration.deregister().await.unwrap();
    // A server on the loopback may be registered where the members that are found are on this host, too.
    let service = Registrar::connect_lazy(options(&dns)).unwrap().service("t");
    let control = service.control();
    let router = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serving = tokio::spawn(service.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    control.stop();
    serving.await.unwrap().unwrap();
}

/// SRV: records that are replaced while nothing of the old set lives are read again long before their TTL of an hour.
#[tokio::test]
async fn a_set_that_is_dead_is_not_kept_for_its_ttl() {
    let (dns, first, second) = (Answerer::start().await, Etcd::start(), Etcd::start());
    put(&first, "h:1").await;
    put(&second, "h:2").await;
    dns.set(PLAIN, [at(&first)]);
    let resolution = resolve(options(&dns));
    resolution.ready(PATIENCE).await.unwrap();
    dns.set(PLAIN, [at(&second)]);
    first.kill();
    let named = async || resolution.snapshot().instances().any(|it| it.addresses()[0].to_string() == "h:2");
    until("the other etcd", named).await;
}

/// SRV: while etcd answers the records are read again too, and a TTL of 0 is no question with each request.
#[tokio::test]
async fn records_are_read_every_ten_seconds_while_etcd_answers() {
    let (dns, first, second) = (Answerer::start().await, Etcd::start(), Etcd::start());
    dns.state().ttl = 0;
    dns.set(PLAIN, [at(&first)]);
    let (log, _guard) = Log::begin();
    let registrar = Registrar::connect_lazy(options(&dns)).unwrap();
    let began = Instant::now();
    for port in 1..=20 {
        let registration = registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        registration.deregister().await.unwrap();
    }
    let (asked, took) = (dns.count(), began.elapsed().as_secs() as usize);
    // Both names, or with what is tried again a few more; and again every ten seconds.
    assert!(asked <= 4 * (1 + took / 9), "{asked} questions in {took} s");
    dns.set(PLAIN, [at(&first), at(&second)]);
    let port = second.address().port().to_string();
    until("the second is known", async || {
        log.text().lines().any(|line| line.contains("found") && line.contains(&port))
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(9 + took as u64 + 20));
}

/// SRV: whatever goes wrong with DNS, the last members are kept, and it is said once.
#[tokio::test]
async fn what_was_found_is_kept_while_dns_fails() {
    let (log, _guard) = Log::begin();
    let (dns, etcd) = (Answerer::start().await, Etcd::start());
    dns.state().ttl = 1;
    dns.set(PLAIN, [at(&etcd)]);
    let resolution = resolve(options(&dns));
    resolution.ready(PATIENCE).await.unwrap();
    for (number, mood) in [None, Some(Mood::Failing), Some(Mood::Garbage), Some(Mood::Silent)].into_iter().enumerate() {
        // With none, there is no such name (NXDOMAIN).
        match mood {
            None => dns.set(PLAIN, []),
            Some(mood) => dns.mood(mood),
        }
        let asked = dns.count();
        etcd.kill();
        until("it is asked again", async || dns.count() >= asked + 2).await;
        etcd.start_again();
        put(&etcd, &format!("h:{}", 10 + number)).await;
        until("the last members", async || resolution.snapshot().len() == number + 1).await;
    }
    assert_eq!(log.warned("SRV lookup failed"), 1);
    dns.set(PLAIN, [at(&etcd)]);
    dns.mood(Mood::Well);
    etcd.kill();
    until("well again", async || log.text().contains("SRV lookup recovered")).await;
}

/// SRV: with nothing found yet, the error says what DNS said, and what is put there later is found.
#[tokio::test]
async fn what_dns_says_is_in_the_error() {
    for (mood, records, said) in [
        (Mood::Well, None, "NXDOMAIN"),
        (Mood::Well, Some((0, 0, 1, ".")), "no usable host"),
        (Mood::Well, Some((0, 0, 1, "root:secret@h")), "no usable host"),
        (Mood::Failing, None, PLAIN),
        (Mood::Silent, None, PLAIN),
    ] {
        let (dns, etcd) = (Answerer::start().await, Etcd::start());
        dns.set(PLAIN, records);
        dns.mood(mood);
        let resolution = resolve(options(&dns));
        says(&resolution, said).await;
        let error = format!("{:?}", resolution.last_error());
        assert!(!error.contains("secret"), "{error}");
        dns.set(PLAIN, [at(&etcd)]);
        dns.mood(Mood::Well);
        resolution.ready(PATIENCE).await.unwrap();
    }
}

/// SRV: a name without an address is one member that cannot be reached.
#[tokio::test]
async fn a_name_that_resolves_to_nothing_is_nobodys_trouble() {
    let (dns, etcd) = (Answerer::start().await, Etcd::start());
    dns.set(PLAIN, [(0, 0, 1, "nobody.invalid."), at(&etcd)]);
    for _ in 0..4 {
        resolve(options(&dns)).ready(PATIENCE).await.unwrap();
    }
}

/// SRV: what does not fit into a datagram is asked for over TCP.
#[tokio::test]
async fn truncated_answers_are_asked_for_over_tcp() {
    let (dns, etcd) = (Answerer::start().await, Etcd::start());
    dns.mood(Mood::Truncated);
    let many = (1..=60).map(|port| (9, 0, port, "a-long-name-of-a-member-that-is-not-there.invalid."));
    dns.set(PLAIN, many.chain([at(&etcd)]));
    resolve(options(&dns)).ready(PATIENCE).await.unwrap();
    assert!(dns.state().asked.iter().any(|name| name.starts_with("tcp ")), "{:?}", dns.state().asked);
}

/// SRV: the member of the lowest priority is used, and the next when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_priority_comes_first() {
    let (dns, cluster) = (Answerer::start().await, tokio::task::spawn_blocking(|| Cluster::start(3)).await.unwrap());
    let record = |number: usize| (number as u16, 0, cluster.member(number).address().port(), "localhost.");
    dns.set(PLAIN, (0..3).map(record));
    let mut resolutions = Vec::new();
    for _ in 0..12 {
        let resolution = resolve(options(&dns));
        resolution.ready(PATIENCE).await.unwrap();
        resolutions.push(resolution);
    }
    let streams = |number: usize| {
        let label = "grpc_method=\"Watch\"";
        cluster.member(number).metric_with("grpc_server_started_total", label).unwrap_or_default() as usize
    };
    until("the watches", async || streams(0) + streams(1) + streams(2) >= 12).await;
    // On a busy machine the next one may have answered sooner.
    assert!(streams(0) >= 9, "{} {} {}", streams(0), streams(1), streams(2));
    let (second, third) = (streams(1), streams(2));
    cluster.member(0).kill();
    until("the others", async || streams(1) + streams(2) >= 12).await;
    assert!(streams(1) - second > 2 * (streams(2) - third), "{} {}", streams(1), streams(2));
    drop(resolutions);
}

/// SRV: with TLS settings only members with TLS are looked for.
#[cfg(feature = "tls-ring")]
#[tokio::test]
async fn with_tls_settings_nobody_is_spoken_to_without() {
    let (dns, etcd) = (Answerer::start().await, Etcd::start());
    dns.set(PLAIN, [at(&etcd)]);
    let resolution = resolve(options(&dns).tls(tonic_etcd::ClientTls::new()));
    says(&resolution, "NXDOMAIN").await;
    assert!(dns.state().asked.iter().all(|name| name == SECURE), "{:?}", dns.state().asked);
    dns.set(SECURE, [at(&etcd)]);
    says(&resolution, "TLS").await;
}

/// SRV: the error of a DNS server that does not answer names the names that were looked up, and no others.
#[cfg(feature = "tls-ring")]
#[tokio::test]
async fn an_error_names_what_was_looked_up() {
    let dns = Answerer::start().await;
    dns.mood(Mood::Silent);
    let resolution = resolve(options(&dns).tls(tonic_etcd::ClientTls::new()));
    says(&resolution, "no answer within").await;
    let error = resolution.last_error().unwrap().to_string();
    assert!(error.contains(SECURE) && !error.contains(PLAIN), "{error}");
}
